"""What the doctor makes of what it sees; the machine that runs the tests is only one of many."""

from __future__ import annotations

import os
import resource
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from launcher.doctor.extension_locks import examine_locks
from launcher.doctor.finding import Finding
from launcher.doctor.gpus import examine_gpus, read_links, read_query
from launcher.doctor.machine import (
    examine_clock,
    examine_disk,
    examine_limit,
    examine_name,
    examine_port,
    examine_shared_memory,
)
from launcher.doctor.software import examine_software
from launcher.doctor.torch_facts import examine_torch
from launcher.doctor.wandb_key import examine_key
from launcher.runners.address import free_port

KEY = "0123456789abcdef" * 3  # as long as one of W&B's, and to be seen nowhere
WANTED = ["torch>=2.9", "wandb>=0.31", "deepspeed<0.20,>=0.19.8; extra == 'deepspeed'", "mypy>=1; extra == 'test'"]
FACTS: dict[str, Any] = {
    "import_seconds": 1.0, "torch": "2.13.0", "cuda": "12.8", "cuda_error": "", "nccl": "2.27.5", "gloo": True,
    "devices": [{"name": "H100", "bytes": 85_000_000_000, "arch": "sm_90"}] * 2, "archs": ["sm_80", "sm_90"],
}  # fmt: skip


def levels(found: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.level for finding in found}


def software(versions: dict[str, str], python: tuple[int, ...] = (3, 11, 2)) -> list[Finding]:
    def installed(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return list(examine_software(WANTED, installed, python))


def test_versions() -> None:
    fits = software({"torch": "2.13.0+cpu", "wandb": "0.31.0"})
    assert levels(fits) == {"Python": "ok", "torch": "ok", "wandb": "ok", "deepspeed": "ok"}
    assert fits[-1].said == "not installed; pip install 'launcher[deepspeed]' brings it"
    found = {finding.name: finding for finding in software({"torch": "2.8.0", "deepspeed": "0.20.1"}, (3, 9, 1))}
    assert {name: finding.level for name, finding in found.items()} == {
        "Python": "problem",
        "torch": "problem",
        "wandb": "problem",
        "deepspeed": "warning",
    }
    assert found["torch"].said == "2.8.0 does not fit: torch>=2.9 is needed"
    assert found["wandb"].cure == "pip install 'wandb>=0.31'"


def test_torch_and_its_gpus() -> None:
    assert set(levels(list(examine_torch(FACTS, "", 2))).values()) == {"ok"}
    assert levels(list(examine_torch({**FACTS, "cuda": None, "devices": []}, "", 0)))["CUDA"] == "ok"
    for wrong, name in (
        ({"cuda": None, "devices": []}, "CUDA"),
        ({"devices": [], "cuda_error": "driver too old"}, "CUDA"),
        ({"archs": ["sm_80"]}, "CUDA"),
        ({"nccl": ""}, "NCCL"),
        ({"gloo": False}, "gloo"),
    ):
        assert levels(list(examine_torch({**FACTS, **wrong}, "", 2)))[name] == "problem", wrong
    other = {"devices": [*FACTS["devices"], {"name": "A100", "bytes": 1, "arch": "sm_80"}]}
    assert levels(list(examine_torch({**FACTS, **other}, "", 3)))["GPUs"] == "warning"
    (finding,) = examine_torch(None, "cannot be imported: no libcudart", 0)
    assert (finding.level, finding.said) == ("problem", "cannot be imported: no libcudart")
    (finding,) = examine_torch(None, "", 0)
    assert (finding.level, finding.said) == ("warning", "takes more than 120 s, in every rank")


def test_what_nvidia_smi_says_of_gpus() -> None:
    text = "0, H100, 570.86.10, 81559, 4, 0\n1, H100, 570.86.10, 81559, 60000, 0\n2, H100, 570.86.10, 81559, 0, 3\n"
    assert levels(list(read_query(text + "3, T4, 570.86.10, 15360, 0, [N/A]\n"))) == {
        "driver": "ok",
        "GPU 0": "ok",
        "GPU 1": "warning",
        "GPU 2": "problem",
        "GPU 3": "ok",
    }


TOPOLOGY = """\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \t{0}\t{1}\tSYS\t0-31\t0
GPU1\t{0}\t X \t{1}\tPHB\t0-31\t0
GPU2\t{1}\t{1}\t X \tSYS\t32-63\t1
NIC0\tSYS\tPHB\tSYS\t X

Legend:
  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
"""


@pytest.mark.parametrize(
    ("pairs", "level", "said"),
    [
        (("NV18", "NV18"), "ok", "NV18"),
        (("PIX", "PXB"), "ok", "PIX, PXB"),
        (("PIX", "SYS"), "warning", "PIX, SYS: GPUs reach each other over the link between processors"),
        (("NV4", "SYS"), "warning", "NV4, SYS: some pairs of GPUs have NVLink and some have not"),
    ],
)
def test_links_between_gpus(pairs: tuple[str, str], level: str, said: str) -> None:
    """Those to network cards are no links between GPUs."""
    (finding,) = read_links(TOPOLOGY.format(*pairs))
    assert (finding.level, finding.said) == (level, said)


def test_a_single_gpu_has_no_links() -> None:
    assert list(read_links("\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-31\t0\n")) == []


@pytest.mark.parametrize("program", [b"#!/no/such/interpreter\n", b"#!/bin/sh\nprintf '\\377 is wrong\n'; exit 9\n"])
def test_an_nvidia_smi_that_fails_is_one_finding(
    program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nvidia-smi"
    path.write_bytes(program)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (finding,) = examine_gpus(1)
    assert (finding.level, finding.said[:17]) == ("problem", "nvidia-smi fails:")


def test_limits_of_the_machine() -> None:
    assert [examine_shared_memory(total).level for total in (None, 64 * 2**20, 2**34)] == ["warning", "warning", "ok"]
    limits = (1024, 4096, resource.RLIM_INFINITY)
    assert [examine_limit("open files", soft, 4096, "ulimit -n").level for soft in limits] == ["warning", "ok", "ok"]
    assert examine_limit("open files", 1024, 4096, "ulimit -n").cure == "ulimit -n 4096"
    assert [examine_clock(state, 1.8e9).level for state in (0, None, 5)] == ["ok", "ok", "warning"]
    assert examine_clock(0, 1e9).level == "problem"


def test_ports() -> None:
    port = free_port()
    assert examine_port(port, "a rendezvous").level == "ok"
    with socket.socket() as listening:
        listening.bind(("", port))
        listening.listen()
        taken = examine_port(port, "a rendezvous")
    assert (taken.level, taken.said) == ("warning", "cannot be had: Address already in use (a rendezvous)")


def test_names() -> None:
    alone = examine_name("localhost")
    assert alone.level == "warning"  # nobody else can reach it by that
    assert "GLOO_SOCKET_IFNAME" not in alone.cure  # which runs set by themselves
    assert "leads nowhere" in examine_name("no.such.host.invalid").said


def test_the_folder_of_runs(tmp_path: Path) -> None:
    assert [finding.level for finding in examine_disk(tmp_path / "not" / "there")] == ["ok", "ok"]
    (full, unwritable) = examine_disk(Path("/proc"))
    assert (full.name, full.level) == ("disk", "problem")
    assert (unwritable.level, "/proc cannot be written" in unwritable.said) == ("problem", True)
    (tmp_path / "file").touch()
    for runs in (tmp_path / "file", tmp_path / "file" / "runs"):
        (finding,) = examine_disk(runs)
        assert (finding.name, finding.level, finding.said) == ("runs", "problem", f"{tmp_path}/file is a file")


def test_locks_of_builds(tmp_path: Path) -> None:
    (finding,) = examine_locks({}, tmp_path)
    assert finding.level == "ok"
    lock = tmp_path / ".cache" / "torch_extensions" / "py311_cpu" / "fused_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1000, 1000))
    (new,), (old,) = (list(examine_locks({}, tmp_path, now)) for now in (1060, 1000 + 7200))
    assert (new.level, old.level) == ("warning", "problem")
    assert old.cure == f"See that nothing builds, then: rm {lock}"
    (elsewhere,) = examine_locks({"TORCH_EXTENSIONS_DIR": str(tmp_path / "x")}, tmp_path)
    assert elsewhere.level == "ok"
    (cached,) = examine_locks({"XDG_CACHE_HOME": str(tmp_path / ".cache")}, Path("/nowhere"), 8200)
    assert cached.level == "problem"
    (chosen,) = examine_locks({"TORCH_EXTENSIONS_DIR": str(lock.parent.parent)}, Path("/nowhere"), 8200)
    assert chosen.level == "problem"


def test_the_key_of_wandb_is_never_told(tmp_path: Path) -> None:
    file = tmp_path / ".netrc"
    file.write_text(f"machine api.wandb.ai login user password {KEY}\nmachine other password {KEY[:10]}\n")
    file.chmod(0o600)
    nowhere = tmp_path / "nobody"
    found = [
        examine_key({}, tmp_path),
        examine_key({"WANDB_API_KEY": KEY}, nowhere),
        examine_key({"WANDB_MODE": "offline"}, nowhere),
        examine_key({}, nowhere),
        examine_key({"WANDB_API_KEY": KEY[:10]}, tmp_path),
        examine_key({"WANDB_BASE_URL": "http://other:8080"}, tmp_path),
        examine_key({"WANDB_BASE_URL": "http://third"}, tmp_path),
    ]
    assert [finding.level for finding in found] == ["ok", "ok", "ok", "warning", "warning", "warning", "warning"]
    assert "10 characters" in found[4].said
    assert not any(KEY[:10] in f"{finding.said}{finding.cure}" for finding in found)
    file.write_bytes(b"machine \xff")
    assert examine_key({}, tmp_path).said == f"{file} cannot be read as a netrc file"
    file.write_text(f"password {KEY}")
    assert examine_key({}, tmp_path).said == f"{file} cannot be read as a netrc file"


def test_the_server_of_wandb(tmp_path: Path) -> None:
    """Where its environment and its settings files say it is, the nearest first: the key must be one for it."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(
        "".join(f"machine {host} login user password {KEY}\n" for host in ("mine", "ours", "api.wandb.ai"))
    )
    netrc.chmod(0o600)
    general, here = tmp_path / ".config" / "wandb" / "settings", tmp_path / "here" / "wandb" / "settings"
    for file, host in ((general, "ours"), (here, "mine")):
        file.parent.mkdir(parents=True)
        file.write_text(f"[default]\nbase_url = https://{host}/%20\n")

    def found(folder: str = "", home: Path = tmp_path, **environ: str) -> str:
        return examine_key({"NETRC": str(netrc), **environ}, home, tmp_path / folder).said

    assert found() == f"a key in {netrc}, for ours"
    assert found("here") == f"a key in {netrc}, for mine"
    assert found(home=Path("/nowhere")) == f"a key in {netrc}, for api.wandb.ai"
    assert found(home=Path("/nowhere"), WANDB_CONFIG_DIR=str(general.parent)) == f"a key in {netrc}, for ours"
    assert found("here", WANDB_BASE_URL="http://ours:8080") == f"a key in {netrc}, for ours"
    for wrong in ("http://[bad", "ours"):
        said = found(WANDB_BASE_URL=wrong)
        assert said == f"{wrong!r} is no address of a server (WANDB_BASE_URL)"
    general.write_bytes(b"\xff")
    assert found() == f"a key in {netrc}, for api.wandb.ai"
