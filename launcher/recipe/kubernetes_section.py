"""What `launcher submit --to kubernetes` asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from launcher.recipe.docker_section import IMAGE
from launcher.recipe.section import Section

DNS_NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
QUANTITY = r"^[1-9][0-9]{0,8}([KMGT]i?)?$"
INSIDE = r"^/[A-Za-z0-9._/-]{0,254}$"
Kind = Literal["job", "jobset", "trainjob"]
DnsName = Annotated[str, Field(pattern=DNS_NAME)]
PathInside = Annotated[str, Field(pattern=INSIDE)]


class VolumeSection(Section):
    """A volume that exists, and where it is mounted."""

    claim: DnsName = Field(description="Name of the PersistentVolumeClaim.")
    path: PathInside = Field(description="Where it is mounted.")
    read_only: bool = Field(default=False, description="Mount it so that nothing can be written.")


class SecretKeySection(Section):
    """A secret of the cluster that a variable is taken from; its value is never seen here."""

    name: DnsName = Field(description="Name of the Secret.")
    key: str = Field(pattern=r"^[A-Za-z0-9._-]{1,253}$", description="Key in it.")


class KubernetesSection(Section):
    """What `launcher submit --to kubernetes` asks for."""

    kind: Kind = Field(default="job", description="A Job of its own, a JobSet, or a TrainJob of Kubeflow Trainer (v2).")
    image: Annotated[str, Field(pattern=IMAGE)] | None = Field(
        default=None, description="Image to run in; it has the launcher, as the one of docker/Dockerfile."
    )
    code: PathInside | None = Field(
        default=None, description="Where the recipe's folder lies in the image or on a volume, for tasks in files."
    )
    runs_claim: DnsName | None = Field(
        default=None, description="PersistentVolumeClaim for the folder of runs, which all machines share."
    )
    runs_path: PathInside = Field(default="/runs", description="The folder of runs there.")
    volumes: tuple[VolumeSection, ...] = Field(default=(), strict=False, description="More volumes to mount.")
    namespace: DnsName | None = Field(default=None, description="Namespace; null: that of kubectl's context.")
    gpus_per_node: Annotated[int, Field(ge=0, le=4096)] | None = Field(
        default=None, description="GPUs of each machine; null: one for each rank, and none with launch.device=cpu."
    )
    cpus_per_node: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        default=None, description="Cores of each machine; null: one for each rank and each of its data.workers."
    )
    memory: Annotated[str, Field(pattern=QUANTITY)] | None = Field(
        default=None, description="Memory of each machine, such as 64Gi; null: no limit."
    )
    gpu_resource: str = Field(
        default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", description="What the cluster calls a GPU."
    )
    resources: dict[str, int | str] = Field(
        default={}, description="More resources of each machine, such as {rdma/hca: 1}."
    )
    shared_memory: Annotated[str, Field(pattern=QUANTITY)] = Field(
        default="8Gi", description="Shared memory that a machine may use at most; data.workers and NCCL need it."
    )
    grace_period: Annotated[int, Field(ge=1, le=86400)] | None = Field(
        default=None, description="Seconds that a run has to save when a pod is ended; null: launch.grace + 120."
    )
    node_selector: dict[str, str] = Field(default={}, description="Labels that a machine must have.")
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=(), strict=False, description="Taints of machines that are no hindrance, as Kubernetes writes them."
    )
    env: dict[str, str] = Field(default={}, description="Variables of the environment; secrets are not among them.")
    secrets: dict[str, SecretKeySection] = Field(
        default={}, description="Variables from secrets of the cluster: {WANDB_API_KEY: {name: wandb, key: api-key}}."
    )
    user: Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal["image"] = Field(
        default=1000, description="Number of the user and group whose files those of the run are; or image: its own."
    )
    service_account: DnsName | None = Field(default=None, description="Service account of the pods.")
    pull_secrets: tuple[DnsName, ...] = Field(
        default=(), strict=False, description="Secrets by which the image is fetched."
    )
    labels: dict[str, str] = Field(default={}, description="More labels, such as that of a queue.")
    runtime: DnsName = Field(default="torch-distributed", description="ClusterTrainingRuntime of a TrainJob.")
