"""All that is looked at on this machine, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from launcher.doctor.extension_locks import examine_locks
from launcher.doctor.finding import Finding
from launcher.doctor.gpus import driver_gpus, examine_gpus
from launcher.doctor.machine import examine_machine
from launcher.doctor.software import examine_software
from launcher.doctor.torch_facts import ask_torch, examine_torch
from launcher.doctor.wandb_key import examine_key


def examine(environ: Mapping[str, str], home: Path, runs: Path) -> Iterator[Finding]:
    """Look at everything; each finding comes as soon as it is made.

    Args:
        environ: the environment.
        home: the user's folder.
        runs: the folder of all runs.
    """
    yield from examine_software()
    gpus = driver_gpus()
    yield from examine_torch(*ask_torch(), gpus)
    yield from examine_gpus(gpus)
    yield from examine_machine(runs)
    yield examine_key(environ, home)
    yield from examine_locks(environ, home)
