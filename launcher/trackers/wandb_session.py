"""W&B's own process and its runs: how they are set up, started and torn down, without questions or endless waits."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from launcher.linux import children_of, end_session_with_this, kill_children_named
from launcher.plan.planner import Plan
from launcher.rundir.layout import RunDirectory
from launcher.trackers.bests import BEST
from launcher.trackers.wandb_files import last_step
from launcher.trackers.wandb_id import wandb_id_of

X_AXIS = "train/global_step"
_PROGRAMS = "wandb-"
_WITHOUT_ITS_RANK = 1.0  # seconds in which W&B's process may end by itself, without the rank that it worked for
LONGEST_REASON = 200
TROUBLE = (Exception, SystemExit)  # what W&B raises; the latter when its process has ended badly

Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class Patience:
    """How long W&B may keep one waiting, in seconds.

    Attributes:
        start: for the server to answer; W&B's own default is 90.
        finish: for the last rows to arrive; W&B's default is to wait for ever.
    """

    start: float = 5.0
    finish: float = 20.0


@dataclass(frozen=True)
class StartedRun:
    """A W&B run that takes rows.

    Attributes:
        handle: W&B's own object.
        last_update: the last update that W&B has already; 0 where it has none.
    """

    handle: Any
    last_update: int


def start_run(plan: Plan, run: RunDirectory, mode: Mode, patience: Patience) -> StartedRun:
    """Start the W&B run of a run directory, or go on with it.

    Online, the server knows how far it is. Offline, W&B's files do: they are what it has taken, whatever was handed
    to it before its process was killed.

    Args:
        plan: the plan of the run.
        run: its directory; W&B writes to `wandb/` in it, and the W&B run takes its name.
        mode: online or offline.
        patience: how long W&B may keep one waiting.

    Raises:
        Exception: whatever W&B raises.
    """
    wandb_id = wandb_id_of(run, os.environ)
    in_files = last_step(run.wandb, wandb_id) if mode == "offline" else 0
    handle = _init(plan, run, wandb_id, mode, patience)
    handle.define_metric("*", step_metric=X_AXIS)
    for name, best in BEST.items():
        handle.define_metric(name, step_metric=X_AXIS, summary=f"{best},last")
    on_server = handle.starting_step - 1 if handle.resumed else 0
    return StartedRun(handle, max(in_files, on_server))


def run_config(plan: Plan) -> dict[str, Any]:
    """What W&B's config shows: the resolved recipe, with the numbers of the batch as they were worked out."""
    config: dict[str, Any] = plan.recipe.model_dump(by_alias=True, mode="json")
    batch = plan.batch
    config["batch"] |= {
        "global": batch.global_,
        "micro": batch.micro,
        "accumulation": batch.accumulation,
        "world": batch.world_size,
    }
    return config


def _init(plan: Plan, run: RunDirectory, wandb_id: str, mode: Mode, patience: Patience) -> Any:
    import wandb

    section = plan.recipe.tracking.wandb
    return wandb.init(
        dir=str(run.path.resolve()),
        id=wandb_id,
        resume="allow",  # a run of this id goes on; without it, W&B would begin it anew over its rows
        name=run.path.name,
        project=section.project or plan.recipe.name,
        entity=section.entity,
        group=section.group,
        tags=section.tags or None,
        config=run_config(plan),
        mode=mode,
        settings=_settings(patience),
    )


def _settings(patience: Patience, **more: str) -> Any:
    """Settings for every run: nothing on the console, nothing read from it, no code, and no endless waits."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        init_timeout=patience.start,
        finish_timeout=patience.finish,
        finish_timeout_raises=True,
        **more,
    )


def set_up(patience: Patience) -> str:
    """Start W&B's own process; returns the mode that the environment and W&B's settings files ask for."""
    import wandb

    # At exit W&B reports its use to its server, in offline runs too; where nothing answers, that takes 10 s or more.
    with suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()
    before = children_of(os.getpid())
    mode = str(wandb.setup(_settings(patience)).settings.mode)
    for started in children_of(os.getpid()) - before:
        # Its process looks for this one once a second, and the one that it starts for itself every five seconds.
        end_session_with_this(started, _PROGRAMS, _WITHOUT_ITS_RANK)
    return mode


def key_problem(patience: Patience) -> str | None:
    """What keeps W&B from using a key, or None. W&B itself looks: in the environment, netrc and settings files."""
    import wandb

    wandb.setup(_settings(patience, mode="online"))  # it looks for no key where its own settings say offline
    try:
        found = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return f"the key cannot be used: {brief(error)}"
    return None if found else "no key is configured"


def tear_down() -> None:
    """End W&B's process, however it is."""
    import wandb

    with suppress(*TROUBLE):
        wandb.teardown()


def kill_processes() -> None:
    """Kill W&B's own processes, halted ones too."""
    kill_children_named(_PROGRAMS)


def brief(error: BaseException) -> str:
    """An error in one line, without W&B's advice about settings that the recipe has not."""
    text = " ".join(str(error).split("\nConsider ")[0].split()) or type(error).__name__
    return text[:LONGEST_REASON].rstrip(".")
