"""The agent of `wandb agent` takes one command of a sweep, as the server would send it: form it, start it, wait for it.

Arguments: the file of the sweep, the id of the run, and key=value for each parameter, as JSON.
"""

from __future__ import annotations

import json
import os
import sys

from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
from wandb.sdk.launch.sweeps.utils import load_sweep_config
from wandb.wandb_agent import Agent


def main(file: str, run_id: str, *settings: str) -> int:
    config = _validate_config_and_fill_distribution(load_sweep_config(file))
    chosen = {key: json.loads(value) for key, _, value in (setting.partition("=") for setting in settings)}
    assert set(chosen) == set(config["parameters"])
    os.environ |= {"WANDB_SWEEP_ID": "sweep", "WANDB_PROJECT": config["project"]}  # as `wandb agent` does
    agent = Agent(api=None, queue=None, sweep_id="sweep")
    agent._sweep_command = config["command"]
    args = {key: {"value": value} for key, value in chosen.items()}
    agent._command_run({"type": "run", "run_id": run_id, "program": config.get("program"), "args": args})
    code: int = agent._run_processes[run_id].wait()
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
