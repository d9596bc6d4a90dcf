"""Ray Train as the agent: it finds places for the ranks on a Ray cluster, and starts one in each."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from launcher.errors import ExitCode
from launcher.rundir.failure import AGENT, FailureRecord
from launcher.rundir.layout import RunDirectory
from launcher.worker.ray_rank import RankOrder, be_rank

_ANSWER = 10.0  # seconds that the head of a cluster has to answer in
_LOOK = 0.2  # seconds between two looks at the workers
_OF_A_MACHINE = {"HOSTNAME", "PWD", "OLDPWD", "SHLVL", "TMPDIR", "_"}  # variables that say nothing on another one


def run_on_ray(arguments: Sequence[str], run: RunDirectory) -> None:
    """Run the ranks as workers of Ray Train, to their end.

    Ray starts none of them again: the launcher does, after the last checkpoint that is sound.

    Args:
        arguments: what `launcher.launch.ray` has written, and then those of every rank.
        run: the directory of the run, which the machines of the cluster share.

    Raises:
        SignalException: a signal came, and the ranks have ended at their next update.
        SystemExit: a rank has failed, or there is no cluster.
    """
    options, of_ranks = _parser().parse_known_args(arguments)
    stop = _Stop(run)
    _connect(run)
    stop.listen()  # Ray has taken SIGTERM for itself
    order = RankOrder(
        run=str(run.path),
        arguments=tuple(of_ranks),
        environment=_kept(_environment(os.environ, on_gpus=options.gpus_per_worker > 0)),
        folder=str(Path.cwd()),
        agent_node=_own_node(),
    )
    failure = _fit(options, order, run)
    if failure is not None:
        traceback.print_exception(failure, file=sys.stderr)
        raise SystemExit(1)
    if stop.signal:
        from torch.distributed.elastic.multiprocessing.api import SignalException

        raise SignalException(f"{stop.signal.name} has come", stop.signal)


class _Stop:
    """Takes the signals that ask to stop. None reaches the ranks from here: a file in the run's directory does.

    Args:
        run: the directory of the run.

    Attributes:
        signal: the first that came; None while there is none.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self.signal: signal.Signals | None = None
        run.stop.unlink(missing_ok=True)
        self.listen()

    def listen(self) -> None:
        """Take the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            self._run.stop.touch()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ray")
    parser.add_argument("--num-workers", type=int, required=True)
    parser.add_argument("--cpus-per-worker", type=int, required=True)
    parser.add_argument("--gpus-per-worker", type=int, required=True)
    return parser


def _connect(run: RunDirectory) -> None:
    """Become a driver of the cluster that Ray finds: of RAY_ADDRESS, or of this machine."""
    import ray

    try:
        _reach(os.environ.get("RAY_ADDRESS", ""))
        ray.init(address="auto", log_to_driver=True)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        message = "No Ray cluster is running here. Begin one by ray start --head, or set RAY_ADDRESS."
        FailureRecord(AGENT, time.time_ns(), type(error).__name__, message, None, ExitCode.REQUEST).write(run)
        raise SystemExit(int(ExitCode.REQUEST)) from None


def _reach(address: str) -> None:
    """Knock at a HOST:PORT: Ray itself asks there for half an hour, whether anybody answers or not.

    Raises:
        ConnectionError, TimeoutError, socket.gaierror: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and "//" not in host and port.isascii() and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()


def _own_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _kept(environment: dict[str, str]) -> Any:
    """What workers get it by: none of Ray's logs, lists and pages shows what Ray keeps so."""
    import ray

    return ray.put(environment)


def _fit(options: argparse.Namespace, order: RankOrder, run: RunDirectory) -> BaseException | None:
    """Let Ray Train run the workers; why that failed, if it did.

    It goes on in a thread of its own: in the main one Ray would take Ctrl-C for itself, and end the ranks at once.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = options.gpus_per_worker
    resources: dict[str, float] = {"CPU": options.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    trainer = TorchTrainer(
        be_rank,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="gloo"),  # by which the workers tell each other where the ranks meet
        scaling_config=ScalingConfig(num_workers=options.num_workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name="ray", storage_path=str(run.agent_files), failure_config=FailureConfig(max_failures=0)
        ),
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=fit, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK)
    return failures[0] if failures else None


def _environment(own: Mapping[str, str], on_gpus: bool) -> dict[str, str]:
    """What every rank finds in its environment: that of this process, as under torchrun, and not what Ray sets there.

    Args:
        own: the environment of this process.
        on_gpus: whether Ray says which GPUs a worker sees.
    """
    of_ray = {*_OF_A_MACHINE, *({"CUDA_VISIBLE_DEVICES"} if on_gpus else ())}
    return {name: value for name, value in own.items() if not name.startswith("RAY_") and name not in of_ray}
