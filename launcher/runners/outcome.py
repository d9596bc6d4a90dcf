"""How a run ended, and why, in one paragraph."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from launcher.errors import ExitCode
from launcher.plan.planner import Plan
from launcher.rundir.checkpoints import newest_update
from launcher.rundir.failure import AGENT, FailureRecord, Failures, WorkerDeath, read_failures
from launcher.rundir.heartbeat import read_beats
from launcher.rundir.layout import RunDirectory
from launcher.rundir.status import FailureStatus, RunStatus
from launcher.runners.follow import RowFollower


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        status: what status.json says.
        cause: the root cause in one paragraph; empty when nothing failed.
        again: whether another try from the last checkpoint may go better. An error of ours that a worker tells its
            user is no accident: it would come again.
    """

    status: RunStatus
    cause: str = ""
    again: bool = False

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return ExitCode.WORKER if self.status.exit_code is None else self.status.exit_code


def outcome_of(agent_code: int, stopped: bool, run: RunDirectory, update: int, samples_seen: int) -> Outcome:
    """Work out how a run ended.

    Args:
        agent_code: exit code of the agent, negative for a signal.
        stopped: whether a signal had asked the run to stop.
        run: its directory, with what the workers and the agent recorded.
        update: the last update that was logged.
        samples_seen: samples consumed by then.
    """
    failures = read_failures(run)
    cause = failures.first()
    if (stopped or failures.agent.signal) and not _is_own_failure(cause):
        if update and update == _planned_updates(run) and _is_kept(run, update):  # the signal came when all was done
            return Outcome(RunStatus("done", update, samples_seen, ExitCode.DONE))
        return _stopped(run, update, samples_seen)
    if agent_code == 0 or (isinstance(cause, FailureRecord) and cause.peer_is_gone):
        left = _left_early(run, failures)
        cause, agent_code = (left, agent_code or 1) if left else (cause, agent_code)
    if agent_code == 0:
        return Outcome(RunStatus("done", update, samples_seen, ExitCode.DONE))
    told = cause.exit_code if isinstance(cause, FailureRecord) else None
    code = ExitCode.WORKER if told is None else told
    failure, paragraph = _explained(cause, agent_code, run)
    return Outcome(RunStatus("failed", update, samples_seen, code, failure), paragraph, again=told is None)


def not_begun(run: RunDirectory) -> Outcome:
    """The end of a run that a signal stopped before a launch; `status.json` says it too."""
    made = [row for row in RowFollower(run.metrics).new() if int(row["train/global_step"] or 0) <= newest_update(run)]
    samples_seen = int(made[-1]["train/samples_seen"] or 0) if made else 0
    outcome = _stopped(run, newest_update(run), samples_seen)
    with suppress(OSError):  # the outcome is told in any case
        outcome.status.write(run)
    return outcome


def cut_short(failed: Outcome, error: OSError, run: RunDirectory) -> Outcome:
    """The end of a run that had failed, and whose next try could not be made ready; `status.json` says it too.

    Args:
        failed: how it had failed: what it says of the culprit stays.
        error: what kept the next try from being made.
        run: its directory.
    """
    place = f"{error.filename}: " if error.filename else ""
    code = ExitCode.REQUEUE if newest_update(run) else ExitCode.WORKER
    cause = f"The run could not be started again: {place}{error.strerror or error}."
    outcome = replace(failed, status=replace(failed.status, exit_code=code), cause=cause, again=False)
    with suppress(OSError):  # the outcome is told in any case
        outcome.status.write(run)
    return outcome


def machine_lost(outcome: Outcome, lost: Sequence[str], run: RunDirectory) -> Outcome:
    """The end of a run that has lost a machine and gets no other; `status.json` says it too.

    Args:
        outcome: how what was left of it has ended, which is as it would for a signal.
        lost: the launchers that have died.
        run: its directory.
    """
    what = f"the launcher of another machine has died ({', '.join(lost)})"
    failure = FailureStatus(AGENT, what, str(run.agent_log))
    status = replace(outcome.status, state="failed", exit_code=ExitCode.WORKER, failure=failure)
    with suppress(OSError):  # the outcome is told in any case
        status.write(run)
    return Outcome(status, f"{what[0].upper()}{what[1:]}.")


def _stopped(run: RunDirectory, update: int, samples_seen: int) -> Outcome:
    """A run that was stopped can go on where it has any checkpoint, though updates may have to be made again."""
    kept = newest_update(run)
    if kept:
        # The row of the last update may be missing: of one whose evaluation is to be made when the run goes on.
        return Outcome(RunStatus("preempted", max(update, kept), samples_seen, ExitCode.REQUEUE))
    return Outcome(RunStatus("interrupted", update, samples_seen, ExitCode.INTERRUPTED))


def _is_kept(run: RunDirectory, update: int) -> bool:
    """Whether there is a checkpoint after an update, or none is wanted."""
    try:
        wanted = Plan.model_validate_json(run.plan.read_text(encoding="utf-8")).recipe.checkpoint.wanted
    except (OSError, ValueError):
        wanted = True
    return not wanted or newest_update(run) >= update


def _left_early(run: RunDirectory, failures: Failures) -> WorkerDeath | None:
    """A rank that ended as if it was done, which leaves nothing but its last beat: that of a rank that is done is gone.

    Ranks that were ended in their turn may have left theirs too: they had got further.
    """
    told = {record.rank for record in failures.records} | {death.rank for death in failures.agent.deaths}
    beats = [beat for beat in read_beats(run) if beat.update and beat.phase != "ending"]
    left = [beat for beat in beats if beat.rank not in told]
    return WorkerDeath(min(left, key=lambda beat: beat.position).rank, 0) if left else None


def _is_own_failure(cause: FailureRecord | WorkerDeath | None) -> bool:
    """Whether a worker failed of itself, and not because the run was stopped under it."""
    return isinstance(cause, FailureRecord) and not cause.peer_is_gone and cause.exception != "KeyboardInterrupt"


def _planned_updates(run: RunDirectory) -> int | None:
    """The updates of the whole run: rank 0 renews the plan when the length of the data is known."""
    try:
        return Plan.model_validate_json(run.plan.read_text(encoding="utf-8")).length.updates
    except (OSError, ValueError):
        return None


def _explained(
    cause: FailureRecord | WorkerDeath | None, agent_code: int, run: RunDirectory
) -> tuple[FailureStatus, str]:
    """The root cause for status.json, and in a paragraph."""
    if cause is None:
        text = f"No rank failed, but torchrun, accelerate or Ray {_ended(agent_code)}. Its log: {run.agent_log}"
        return FailureStatus(AGENT, f"the agent {_ended(agent_code)}", str(run.agent_log)), text
    if cause.rank == AGENT and isinstance(cause, FailureRecord) and cause.exit_code is not None:
        return FailureStatus(AGENT, _exception(cause), str(run.agent_log)), cause.message
    if cause.rank == AGENT:
        text = f"No rank failed, but torchrun or accelerate did: {_exception(cause)}. Its log: {run.agent_log}"
        return FailureStatus(AGENT, _exception(cause), str(run.agent_log)), text
    failure = FailureStatus(cause.rank, _exception(cause), str(run.rank_log(cause.rank)))
    if isinstance(cause, FailureRecord) and cause.exit_code is not None:
        return failure, cause.message
    return failure, _paragraph(cause, run)


def _paragraph(cause: FailureRecord | WorkerDeath, run: RunDirectory) -> str:
    when = ""
    if isinstance(cause, FailureRecord) and cause.update is not None:
        when = f" in update {cause.update}" if cause.update else " before its first update"
    others = " The other ranks stopped because of it." if len(list(run.logs.glob("rank_*.log"))) > 1 else ""
    happened = f"failed{when}: {_exception(cause)}" if isinstance(cause, FailureRecord) else _exception(cause)
    return f"Rank {cause.rank} {happened}.{others} Its log: {run.rank_log(cause.rank)}"


def _exception(cause: FailureRecord | WorkerDeath) -> str:
    if isinstance(cause, FailureRecord):
        first_line = cause.message.strip().partition("\n")[0] or "no message"
        return f"{cause.exception}: {first_line}".rstrip(".")
    if cause.waited_for:
        return "did not answer: the other ranks waited for it until parallel.timeout was over, and it was killed"
    return _ended(cause.exit_code)


def _ended(exit_code: int) -> str:
    if not exit_code:
        return "ended before its last update, as if it was done"
    if exit_code > 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = "; SIGKILL often means that the machine ran out of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
