"""A plan as a container of Docker. Pure: nothing is asked, written or started here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.launch.elsewhere import as_planned, code_folders
from launcher.launch.environ import container_environment
from launcher.launch.submission import Submission
from launcher.plan.planner import Plan
from launcher.recipe.dump import recipe_to_yaml
from launcher.rundir.layout import RunDirectory

LABEL = "launcher.run"
_MEMORY_OF_GPUS = ("--ulimit=memlock=-1", "--ulimit=stack=67108864")  # NCCL locks memory that it shares with the GPUs


@dataclass(frozen=True)
class HostUser:
    """Whose files the run's are to be.

    Attributes:
        uid: the user's number.
        gid: the number of the user's group.
        name: the user's name.
    """

    uid: int
    gid: int
    name: str


@dataclass(frozen=True)
class Container:
    """What a container is to do, besides what its plan says.

    Attributes:
        image: its image.
        recipe_folder: where the recipe lies.
        user: whose files the run's are.
        resume: go on with the run.
        fork: also if the recipe has changed.
        detached: Docker keeps it, and nobody waits for it here.
    """

    image: str
    recipe_folder: Path
    user: HostUser
    resume: bool = False
    fork: bool = False
    detached: bool = False


def docker_run(plan: Plan, run: RunDirectory, container: Container, inherited: Mapping[str, str]) -> Submission:
    """The container that runs a plan on this machine, by `launcher run` inside.

    Paths are the same inside and outside, so that what the run writes down is right on both sides.

    Args:
        plan: the plan, for this machine.
        run: the directory of the run.
        container: what else it is to do.
        inherited: the environment here, of which the container gets a part.
    """
    inside = [
        *("-m", "launcher", "run", str(run.docker_recipe), "--runs", str(run.path.parent), "--run-id", run.path.name),
        *(["--resume", "auto"] if container.resume else []),
        *(["--fork"] if container.fork else []),
    ]
    options = _options(plan, run, container, inherited)
    return Submission(
        argv=("docker", "run", *options, "--entrypoint=python3", container.image, *inside),
        files={run.docker_recipe: recipe_to_yaml(as_planned(plan))},
    )


def _options(plan: Plan, run: RunDirectory, container: Container, inherited: Mapping[str, str]) -> Iterator[str]:
    launch = plan.recipe.launch
    yield "--detach" if container.detached else "--rm"
    yield "--init"  # passes signals on from the first moment, and clears away what nobody waits for
    yield f"--label={LABEL}={run.path}"
    yield f"--user={container.user.uid}:{container.user.gid}"
    yield f"--shm-size={launch.docker.shm_size}"
    yield "--stop-signal=SIGTERM"
    yield f"--stop-timeout={launch.stop_timeout}"
    yield f"--workdir={run.path.parent.parent}"  # paths are shown as they would be here
    if plan.topology.device == "cuda":
        yield "--gpus=all"
        yield from _MEMORY_OF_GPUS
    if launch.docker.network is not None:
        yield f"--network={launch.docker.network}"
    for name, value in launch.docker.options.items():
        if value is not False:
            yield f"--{name}" if value is True else f"--{name}={value}"
    for folder in code_folders(plan.recipe, container.recipe_folder):
        if folder != run.path.parent:
            yield f"--mount=type=bind,source={folder},target={folder},readonly"
    for mount in launch.docker.mounts:
        source, _, target = mount.partition(":")
        yield f"--mount=type=bind,source={source},target={target or source}"
    yield f"--mount=type=bind,source={run.path.parent},target={run.path.parent}"
    variables, names = container_environment(inherited, launch.docker.env, container.user.name)
    for variable in (*variables, *names):
        yield f"--env={variable}"
