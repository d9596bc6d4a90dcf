"""A real Slurm on this machine, whose nodes are all this machine: Debian's, without munge, systemd or a database.

`python -m tests.slurm.cluster FOLDER` starts one that stays, and says how to use and to end it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from launcher.runners.address import free_port
from tests.processes import processes_with

_FREEZER = Path("/sys/fs/cgroup/freezer")
_CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/{tracking}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=60
MinJobAge=3600
PropagateResourceLimits=NONE
EnforcePartLimits=ALL
GresTypes=gpu
"""
# GPUs for want of any: files that every machine has. Slurm hands them out as it does real ones.
_GPUS = [f"/dev/tty{number}" for number in (1, 2)]


class Cluster:
    """A cluster of so many nodes of two cores, and two GPUs that are none where this machine has such files.

    Attributes:
        environment: what commands need to find it.
        nodes: the names of its nodes.
        gpus: of each node.

    Args:
        folder: for all of its files.
        nodes: how many nodes.
    """

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self._folder = folder
        self._conf = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self._conf)}
        port = free_port()
        self.nodes = [f"n{port}x{number}" for number in range(1, nodes + 1)]  # cgroups go by these names
        # With cgroups a signal goes to the task alone, as on clusters that people have.
        tracking = "cgroup" if os.access(_FREEZER, os.W_OK) else "pgid"
        host = socket.gethostname().partition(".")[0]
        conf = _CONF.format(host=host, port=port, folder=folder, tracking=tracking)
        self.gpus = len(_GPUS) if all(Path(file).exists() for file in _GPUS) else 0
        gpus = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        for name in self.nodes:
            conf += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2{gpus}\n"
        conf += f"PartitionName=all Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP\n"
        for below in ("state", "log", *(f"spool/{name}" for name in self.nodes)):
            (folder / below).mkdir(parents=True)
        self._conf.write_text(conf)
        devices = "".join(f"Name=gpu File={file}\n" for file in _GPUS[: self.gpus])
        (folder / "gres.conf").write_text(devices)
        (folder / "cgroup.conf").write_text("CgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n")

    def start(self) -> None:
        """Start the controller and the daemon of each node, and wait until all nodes are idle."""
        self._daemon("slurmctld", "-c")
        for name in self.nodes:
            self._daemon("slurmd", "-N", name)
        self._wait_until_idle(*self.nodes)

    def lose(self, node: str) -> None:
        """Let a node be gone at once with all that ran on it; Slurm is told what it would find out by itself."""
        daemon = int((self._folder / f"slurmd-{node}.pid").read_text())
        jobs = set(processes_with(f"SLURMD_NODENAME={node}"))
        # Slurm's own go first: none is left to tell the controller how a job has ended.
        for pid in [*filter(None, {_step_of(pid) for pid in jobs}), daemon, *jobs]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def restore(self, node: str) -> None:
        """Bring a lost node back."""
        self._daemon("slurmd", "-N", node)
        self.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self._wait_until_idle(node)

    def _wait_until_idle(self, *nodes: str) -> None:
        until = time.monotonic() + 60
        while not set(nodes) <= set(self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()):
            if time.monotonic() > until:
                raise TimeoutError(self.call("sinfo", "-N"))
            time.sleep(0.1)

    def stop(self) -> None:
        """End all jobs and daemons, and wait for that."""
        until = time.monotonic() + 30
        while (jobs := self.call("squeue", "-h", "-o", "%A").split()) and time.monotonic() < until:
            self.call("scancel", "--signal=KILL", "--full", *jobs)
            self.call("scancel", *jobs)
            time.sleep(0.5)
        for pid_file in [*self._folder.glob("slurmd-*.pid"), self._folder / "slurmctld.pid"]:
            with suppress(OSError, ValueError):
                self._end(int(pid_file.read_text()))
        for name in self.nodes:
            for folder in sorted(_FREEZER.glob(f"slurm_{name}/**/"), key=lambda path: -len(path.parts)):
                with suppress(OSError):
                    folder.rmdir()

    def call(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        env = {**os.environ, **self.environment}
        return subprocess.run(command, env=env, text=True, capture_output=True, check=False, timeout=60).stdout

    def log(self) -> str:
        """What the daemons have written, for a test that fails."""
        return "\n".join(path.read_text()[-3000:] for path in sorted((self._folder / "log").glob("*.log")))

    def _daemon(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        command = [program or name, *arguments, "-f", str(self._conf)]
        # In a session of its own, and with no pipe of ours: it stays when this program ends.
        subprocess.run(
            command,
            env={**os.environ, **self.environment},
            check=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @staticmethod
    def _end(pid: int) -> None:
        until = time.monotonic() + 20
        os.kill(pid, signal.SIGTERM)
        while _runs(pid):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _step_of(pid: int) -> int | None:
    """The process of Slurm's that is the parent of one of a job, if that is what its parent is."""
    with suppress(OSError):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
            return parent
    return None


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that has may stay on record until this process, its parent, has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    started = Cluster(Path(sys.argv[1]).absolute())
    started.start()
    ids = " ".join(path.read_text().strip() for path in Path(sys.argv[1]).glob("*.pid"))
    print(f"export SLURM_CONF={started.environment['SLURM_CONF']}   # ended by: kill {ids}")
