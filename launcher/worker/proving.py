"""A proof in one rank: from the plan to `proof.json`."""

from __future__ import annotations

import signal

from launcher.plan.planner import Plan
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory
from launcher.rundir.proof import STEP_MARK
from launcher.train.proof.prove import prove
from launcher.worker.dist_env import DistEnv
from launcher.worker.preparation import prepared
from launcher.worker.tf32 import use_tf32


def run_proof(plan: Plan, run: RunDirectory, env: DistEnv, generation: Generation) -> None:
    """Take this rank's part in the proof of the plan's task; rank 0 writes what was found.

    Args:
        plan: the plan of the run.
        run: its directory.
        env: this worker's place.
        generation: of the launch that it belongs to.

    Raises:
        RequestError: the recipe says of the data or the model what is not so.
    """
    use_tf32(False)  # its rounding is larger than any difference that accumulation makes
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, also where it waits for another rank
    with prepared(plan, run, env, generation) as ready:

        def say(step: str) -> None:
            if env.rank == 0:
                print(f"{STEP_MARK}{step}")

        proof = prove(ready.plan, ready.materials, ready.device, env.rank, say)
        if env.rank == 0:
            proof.write(run)
