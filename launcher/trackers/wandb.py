"""Weights & Biases: the rows of a run on its dashboard, or in files that can be sent there later."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.plan.planner import Plan
from launcher.trackers.base import Tracker

X_AXIS = "train/global_step"
SUMMARIES = {"train/loss": "min,last", "eval/loss": "min,last", "eval/accuracy": "max,last"}

INIT_SECONDS = 5.0  # for the server to answer, before the run goes offline; W&B's own default is 90
FINISH_SECONDS = 20.0  # for the last rows to arrive; W&B's default is to wait for ever
LONGEST_ID = 64
LONGEST_REASON = 200

Say = Callable[[str], None]
Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class Choice:
    """Where the rows go, and why: `reason` is what follows "because"."""

    mode: Mode
    reason: str


def make_wandb_tracker(plan: Plan, run_dir: Path, say: Say) -> Tracker | None:
    """Start the W&B run that a plan asks for. It never asks for input, waits seconds at most, and never raises.

    Args:
        plan: the plan of the run.
        run_dir: its directory; W&B writes to `wandb/` in it, and the W&B run takes its name.
        say: takes each sentence that the user should read.

    Returns:
        The tracker, or None where W&B is disabled or could not start.
    """
    wanted = plan.recipe.tracking.wandb.mode
    if wanted == "disabled":
        return None
    try:
        choice = choose_mode(wanted, _set_up(), _key_problem)
        if choice.mode == "disabled":
            say(f"W&B: disabled, because {choice.reason}.")
            return None
        run, choice = _start(plan, run_dir, choice)
        say(f"W&B: {choice.mode}{f' at {run.url}' if run.url else ''}, because {choice.reason}.")
        return WandbTracker(run, say)
    except Exception as error:  # whatever is wrong with W&B, the training goes on
        say(f"W&B: not used, because it could not start: {_brief(error)}.")
        return None


def choose_mode(wanted: str, ambient: str, key_problem: Callable[[], str | None]) -> Choice:
    """Decide between online and offline.

    Args:
        wanted: the recipe's `tracking.wandb.mode`.
        ambient: the mode in W&B's own settings, from WANDB_MODE or a settings file; it counts for `auto` only.
        key_problem: says what keeps a key from being used, or None; asked only where it matters.
    """
    if wanted == "offline":
        return Choice("offline", "the recipe says so")
    if wanted == "auto" and ambient == "disabled":
        return Choice("disabled", "your W&B settings say so")
    if wanted == "auto" and ambient in ("offline", "dryrun"):
        return Choice("offline", "your W&B settings say so")
    problem = key_problem()
    if problem is not None:
        return Choice("offline", problem if wanted == "auto" else f"{problem}, though the recipe says online")
    return Choice("online", "a key is configured" if wanted == "auto" else "the recipe says so")


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


def new_wandb_id(name: str) -> str:
    """An id that no other run of the project has, which begins with a run directory's name as far as W&B takes it.

    The name alone would not do: W&B overwrites a run when another one comes with its id, and two people may have a
    directory of the same name.
    """
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return f"{cleaned[: LONGEST_ID - 9]}-{secrets.token_hex(4)}"


class WandbTracker:
    """Hands each row to a W&B run. What fails is said once, and nothing is logged from then on.

    Args:
        run: the W&B run, already started.
        say: takes each sentence that the user should read.
    """

    def __init__(self, run: Any, say: Say) -> None:
        self._run = run
        self._url: str | None = run.url
        # run.dir is the folder `files` in the folder to upload; W&B passes over one that began online, unless told.
        folder = shlex.quote(str(Path(run.dir).parent))
        self._sync = f"wandb sync {'--include-online ' if run.url else ''}{folder}"
        self._say = say
        self._failed = False

    def log(self, row: Mapping[str, float]) -> None:
        """Log one row, as it is."""
        if self._failed:
            return
        try:
            self._run.log(dict(row), step=int(row[X_AXIS]), commit=True)
        except Exception as error:
            self._fail(error)

    def finish(self, succeeded: bool) -> None:
        """End the W&B run as finished or failed, and say where its rows are."""
        try:
            self._run.finish(exit_code=0 if succeeded else 1)
        except Exception as error:
            self._fail(error)
            _tear_down()  # or W&B tries once more when the process ends, and prints a traceback
        if self._failed:
            return
        if self._url:
            self._say(f"W&B: the run is at {self._url}")
        else:
            self._say(f"W&B: to upload the run later: {self._sync}")

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._say(
                f"W&B: stopped, because {_brief(error)}; metrics.jsonl has every row. "
                f"To upload what W&B has: {self._sync}"
            )
        self._failed = True


def _start(plan: Plan, run_dir: Path, choice: Choice) -> tuple[Any, Choice]:
    """Start the run as chosen, or offline where the server cannot be used: the run, and the choice that holds."""
    try:
        run = _init(plan, run_dir, choice.mode)
    except Exception as error:
        if choice.mode == "offline":
            raise
        _tear_down()  # the attempt holds the id of the run for as long as its process lives
        choice = Choice("offline", f"the server could not be used: {_brief(error)}")
        _set_up()
        run = _init(plan, run_dir, "offline")
    run.define_metric("*", step_metric=X_AXIS)
    for name, summary in SUMMARIES.items():
        run.define_metric(name, step_metric=X_AXIS, summary=summary)
    return run, choice


def _init(plan: Plan, run_dir: Path, mode: Mode) -> Any:
    import wandb

    section = plan.recipe.tracking.wandb
    return wandb.init(
        dir=str(run_dir.resolve()),
        id=new_wandb_id(run_dir.name),
        name=run_dir.name,
        project=section.project or plan.recipe.name,
        entity=section.entity,
        group=section.group,
        tags=section.tags or None,
        config=run_config(plan),
        mode=mode,
        settings=_settings(),
    )


def _settings(**more: str) -> Any:
    """Settings for every run: nothing on the console, nothing read from it, no code, and no endless waits."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        **more,
    )


def _set_up() -> str:
    """Start W&B's own process; returns the mode that the environment and W&B's settings files ask for."""
    import wandb

    # At exit W&B reports its use to its server, in offline runs too; where nothing answers, that takes 10 s or more.
    with suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()
    return str(wandb.setup(_settings()).settings.mode)


def _key_problem() -> str | None:
    """What keeps W&B from using a key, or None. W&B itself looks: in the environment, netrc and settings files."""
    import wandb

    wandb.setup(_settings(mode="online"))  # it looks for no key where its own settings say offline
    try:
        found = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return f"the key cannot be used: {_brief(error)}"
    return None if found else "no key is configured"


def _tear_down() -> None:
    import wandb

    # When its process has ended badly, W&B raises SystemExit.
    with suppress(Exception, SystemExit):
        wandb.teardown()


def _brief(error: Exception) -> str:
    """An error in one line, without W&B's advice about settings that the recipe has not."""
    text = " ".join(str(error).split("\nConsider ")[0].split()) or type(error).__name__
    return text[:LONGEST_REASON].rstrip(".")
