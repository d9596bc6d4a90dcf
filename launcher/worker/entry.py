"""The main program of every rank, started by torchrun or accelerate."""

from __future__ import annotations

import atexit
import os
import sys
import time
import traceback
from collections.abc import Sequence

from launcher.errors import LauncherError
from launcher.linux import end_with_parent
from launcher.plan.planner import Plan
from launcher.recipe.secret_values import without_secrets
from launcher.rundir.failure import TRACEBACK_MARK, FailureRecord, release_rank, reserve_for_rank
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory
from launcher.rundir.network import MEASURE
from launcher.rundir.proof import PROVE
from launcher.train.progress import Progress
from launcher.worker.dist_env import STARTED_BY, DistEnv
from launcher.worker.heart import Heart
from launcher.worker.process import log_to

AGENT = "launcher.worker.agent"  # the program that starts every worker


class Worker:
    """One rank of a run.

    Args:
        run: the directory of the run.
        env: this worker's place.
        generation: of the launch that it belongs to.
    """

    def __init__(self, run: RunDirectory, env: DistEnv, generation: Generation) -> None:
        self._run = run
        self._generation = generation
        self._env = env
        self._update: int | None = None
        self._failed = False
        self._heart: Heart | None = None
        # DDP that is cleared away joins threads of gloo with Python's lock held, which these may wait for (torch 2.13):
        # what was trained lives as long as the process.
        self._kept: object = None

    def work(self, told: Sequence[str]) -> int:
        """Train, prove, measure, or run the user's script; the exit code.

        A failure is recorded before anything is torn down: what the other ranks then raise comes later.

        Args:
            told: the arguments of this worker, which say what to do instead of training.
        """
        script = False
        reserve_for_rank(self._run, self._env.rank)
        try:
            found = Plan.model_validate_json(self._run.plan.read_text(encoding="utf-8"))
            script = found.recipe.script is not None
            plan = self._env.held_against(found)
            if plan.recipe.script is not None:
                from launcher.worker.components import run_script

                self._kept = run_script(plan.recipe.script)
            elif PROVE in told:
                from launcher.worker.proving import run_proof

                run_proof(plan, self._run, self._env, self._generation)
            elif MEASURE in told:
                from launcher.worker.measuring import run_measurement

                run_measurement(plan, self._run, self._env, self._generation)
            else:
                self._update = 0
                self._heart = Heart(self._run, self._env.rank, Progress(), self._env.node)
                self._heart.start()  # before torch is imported, which takes long: who stops here is missed, too
                from launcher.worker.training import run_training  # imports torch: after the log is open

                self._kept = run_training(plan, self._run, self._env, self._heart, self._generation, self._started)
        except SystemExit as leaving:
            self._kept = leaving  # and with it the script's globals
            if script and leaving.code in (None, 0):
                return 0  # the usual end of a script; that of a task is the last update
            self._record(leaving)
            return leaving.code if isinstance(leaving.code, int) and leaving.code else 1
        except BaseException as error:
            self._record(error)
            return 1
        return 0

    def leave(self) -> None:
        """The last thing that a rank does: until then it is watched."""
        if not self._failed:
            release_rank(self._run, self._env.rank)
        if self._heart is not None:
            self._heart.stop()

    def _started(self, update: int) -> None:
        self._update = update

    def _record(self, error: BaseException) -> None:
        self._failed = True
        record = FailureRecord(
            rank=self._env.rank,
            time_ns=time.time_ns(),
            exception=type(error).__name__,
            message=without_secrets(str(error), os.environ),
            update=self._update,
            exit_code=int(error.exit_code) if isinstance(error, LauncherError) else None,
        )
        print(TRACEBACK_MARK, file=sys.stderr)
        sys.stderr.write(without_secrets(traceback.format_exc(), os.environ))
        try:
            record.write(self._run)
        except OSError as full:  # the disk itself may be the failure; the traceback is in the log if it had room
            print(f"the failure could not be recorded: {full}", file=sys.stderr)


def main() -> None:
    """Run this rank, and end the process at once with its exit code.

    After a failure, threads and process groups would wait for ranks that are gone. After a success, threads of gloo
    that outlive the interpreter now and then abort the process as Python takes it down (torch 2.13), and a finished
    run would be called failed: only what was registered to be done at the end is done.
    """
    if os.environ.get(STARTED_BY) == str(os.getppid()):
        end_with_parent(parent=int(os.environ[STARTED_BY]))
    else:
        end_with_parent(AGENT)
    run, env = RunDirectory.from_environ(os.environ), DistEnv.read(os.environ)
    generation = Generation.from_environ(run, os.environ)
    log_to(run.rank_log(env.rank))
    worker = Worker(run, env, generation)
    code = worker.work(sys.argv[1:])
    if not code:
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    worker.leave()
    os._exit(code)


if __name__ == "__main__":
    main()
