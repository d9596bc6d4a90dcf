"""The command line: which commands there are, and how their errors are shown."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from launcher.cli import (
    cancel,
    dashboard,
    doctor,
    export,
    logs,
    plan,
    prove,
    report,
    run,
    schema,
    status,
    submit,
    sweep,
    sync,
)
from launcher.errors import ExitCode, LauncherError

app = typer.Typer(
    name="launcher",
    help="Say the batch you mean: exact gradient accumulation over DDP, from one recipe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("submit")(submit.submit)
app.command("sweep")(sweep.sweep)
app.command("status")(status.status)
app.command("logs")(logs.logs)
app.command("cancel")(cancel.cancel)
app.command("prove")(prove.prove)
app.command("doctor")(doctor.doctor)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("sync")(sync.sync)
app.command("dashboard")(dashboard.dashboard)
app.command("schema")(schema.schema)


def main() -> None:
    """Run the command line; a user's mistake is one sentence for each, and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # × on a terminal that knows ASCII alone is no reason to fail
    try:
        app(args=repeat_option("--world", sys.argv[1:]))
    except LauncherError as error:
        print(f"launcher: {error}" if "\n" not in str(error) else f"launcher:\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as `head`, has seen enough
            sys.stderr.close()
            sys.exit(ExitCode.DONE)
        place = f"{error.filename}: " if error.filename else ""
        print(f"launcher: {place}{error.strerror or error}.", file=sys.stderr)
        sys.exit(ExitCode.REQUEST)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def repeat_option(option: str, args: list[str]) -> list[str]:
    """`--world 1 2` as `--world 1 --world 2`, since an option takes one value; what is no number ends the list."""
    repeated: list[str] = []
    numbers_follow = False
    for arg in args:
        named = arg == option or arg.startswith(f"{option}=")
        numbers_follow = named or (numbers_follow and arg.isdigit())
        if numbers_follow and not named and repeated[-1] != option:
            repeated.append(option)
        repeated.append(arg)
    return repeated
