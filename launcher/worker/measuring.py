"""The measurement of `launcher doctor` in one rank: from the plan to `network.json`."""

from __future__ import annotations

import signal

from launcher.plan.planner import Plan
from launcher.rundir.generation import Generation
from launcher.rundir.layout import RunDirectory
from launcher.rundir.network import STEP_MARK
from launcher.train.network import measure_network
from launcher.worker.dist_env import DistEnv
from launcher.worker.preparation import prepared
from launcher.worker.tf32 import use_tf32


def run_measurement(plan: Plan, run: RunDirectory, env: DistEnv, generation: Generation) -> None:
    """Take this rank's part in the measurement; the first rank of each machine writes what was found.

    Machines that share no folder have each a directory of their own.

    Args:
        plan: the plan.
        run: the directory of the measurement.
        env: this worker's place.
        generation: of the launch that it belongs to.

    Raises:
        RequestError: the recipe says of the data or the model what is not so.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, also where it waits for another rank
    use_tf32(plan.recipe.train.tf32)
    with prepared(plan, run, env, generation) as ready:

        def say(step: str) -> None:
            if env.local_rank == 0:
                print(f"{STEP_MARK}{step}")

        found = measure_network(ready.plan, ready.materials, env.rank, ready.device, ready.gather, say)
        if env.local_rank == 0:
            found.write(run)
