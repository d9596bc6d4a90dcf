"""A dashboard as a workspace or a report of W&B, made by its own package."""

from __future__ import annotations

import hashlib
from typing import Any

from launcher.dashboard.panels import Bars, Dashboard, Line, Panel, Scatter, Section
from launcher.errors import ExitCode, LauncherError
from launcher.trackers.wandb_session import TROUBLE, Patience, brief, key_problem, set_up

_ANSWER = 10  # seconds that the server may take for an answer
_ID = 11  # characters of W&B's own ids
_COLUMNS = 3  # panels side by side
_WIDTH, _HEIGHT = 8, 6  # of a panel in a report, of 24 columns
_COLUMNS_OF_RUNS = ("summary:batch/global_samples", "summary:batch/world_size", "summary:throughput/samples_per_sec")


class WorkspaceError(LauncherError):
    """W&B cannot be used, or does not take the dashboard; the message says why."""

    exit_code = ExitCode.REQUEST


def workspace_spec(dashboard: Dashboard) -> str:
    """What the server would be sent of a workspace, as JSON; no server is asked.

    Args:
        dashboard: what it shows.

    Raises:
        WorkspaceError: the package that makes workspaces is not installed.
    """
    made = _workspace(dashboard, dashboard.entity or "")
    return str(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def save_workspace(dashboard: Dashboard) -> str:
    """Save the workspace of a project, or bring the one that was saved up to date; its address.

    What its users have chosen for the list of runs (filters, colours) stays.

    Args:
        dashboard: what it shows.

    Raises:
        WorkspaceError: W&B or its server cannot be used, or the project may not be written to.
    """
    api = _api()
    entity = _entity(dashboard, api)
    made = _workspace(dashboard, entity)
    try:
        there = _there(api, entity, dashboard.project)
        if there is not None:
            there.sections, there.name = made.sections, made.name
            made = there
        made.save()
        return str(made.url)
    except TROUBLE as error:
        raise _refused(entity, dashboard.project, error) from None


def save_report(dashboard: Dashboard) -> str:
    """Save a report with the same panels and the questions that they answer, or bring it up to date; its address.

    Args:
        dashboard: what it shows.

    Raises:
        WorkspaceError: W&B or its server cannot be used, or the project may not be written to.
    """
    api = _api()
    entity = _entity(dashboard, api)
    reports = _package().reports
    try:
        blocks: list[Any] = [reports.TableOfContents()]
        for section in dashboard.sections:
            runs = reports.Runset(entity=entity, project=dashboard.project)
            panels = _panels(section, placed=True)
            blocks += [reports.H1(section.name), reports.P(section.question)]
            blocks.append(reports.PanelGrid(runsets=[runs], panels=panels))
        made = reports.Report(
            entity=entity, project=dashboard.project, title=dashboard.title, blocks=blocks, width="fluid"
        )
        for kept in api.reports(f"{entity}/{dashboard.project}"):
            if kept.display_name == dashboard.title:
                made.id = kept.id
        made.save()
        return str(made.url)
    except TROUBLE as error:
        raise _refused(entity, dashboard.project, error) from None


def _api() -> Any:
    """W&B's interface to its server, with a key that was looked for without asking anybody."""
    import wandb

    _package()  # what is missing is told before anything is asked
    set_up(Patience())
    if problem := key_problem(Patience()):
        raise WorkspaceError(
            f"A dashboard is kept by W&B's server, and {problem}. Run wandb login, or set WANDB_API_KEY; --dry-run "
            "prints what would be sent."
        )
    try:
        return wandb.Api(timeout=_ANSWER)
    except TROUBLE as error:
        raise WorkspaceError(f"W&B's server cannot be used: {brief(error)}.") from None


def _entity(dashboard: Dashboard, api: Any) -> str:
    """The user or team that the recipe names, or W&B's settings, or the server."""
    try:
        found = dashboard.entity or api.settings["entity"] or api.default_entity
    except TROUBLE as error:
        raise WorkspaceError(f"W&B's server cannot be used: {brief(error)}.") from None
    if not found:
        raise WorkspaceError("W&B knows no user or team to save the dashboard for. Set tracking.wandb.entity.")
    return str(found)


def _there(api: Any, entity: str, project: str) -> Any | None:
    """The workspace that was saved before; None where there is none. The project is there then."""
    name = _name(entity, project)
    try:
        return _package().workspaces.Workspace.from_url(f"https://wandb/{entity}/{project}?nw={name}")
    except ValueError as error:  # which W&B raises for a project that is not there, too
        if "Project" in str(error):
            api.create_project(project, entity)
    return None


def _workspace(dashboard: Dashboard, entity: str) -> Any:
    workspaces = _package().workspaces
    made = workspaces.Workspace(
        entity=entity,
        project=dashboard.project,
        name=dashboard.title,
        sections=[_section(section) for section in dashboard.sections],
        runset_settings=workspaces.RunsetSettings(pinned_columns=list(_COLUMNS_OF_RUNS)),
    )
    made._internal_name = f"nw-{_name(entity, dashboard.project)}-v"  # or each time another one is made
    return made


def _name(entity: str, project: str) -> str:
    """The name of a project's workspace in its address, the same each time and for no other project."""
    return _id(f"{entity}/{project}")


def _id(of: str) -> str:
    """An id like W&B's own, the same for the same text: each time that a dashboard is made it has the same parts."""
    number = int.from_bytes(hashlib.sha256(f"launcher {of}".encode()).digest(), "big")
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return "".join(digits[number // 36**place % 36] for place in range(_ID))


def _section(section: Section) -> Any:
    workspaces = _package().workspaces
    rows = -(-len(section.panels) // _COLUMNS)
    return workspaces.Section(
        name=section.name,
        panels=_panels(section),
        is_open=True,
        layout_settings=workspaces.SectionLayoutSettings(columns=_COLUMNS, rows=rows),
    )


def _panels(section: Section, placed: bool = False) -> list[Any]:
    """The panels of a section; those of a report have their places."""
    made = []
    for number, panel in enumerate(section.panels):
        one = _panel(panel)
        one._id = _id(f"{section.name}: {panel.title}")
        if placed:
            one.layout = _place(number)
        made.append(one)
    return made


def _panel(panel: Panel) -> Any:
    reports = _package().reports
    if isinstance(panel, Line):
        return reports.LinePlot(
            title=panel.title,
            x=panel.x,
            y=list(panel.metrics),
            custom_expressions=list(panel.formulas) or None,
            metric_regex=panel.pattern or None,
            log_y=panel.log_y or None,
        )
    if isinstance(panel, Scatter):
        x, y = reports.SummaryMetric(panel.x), reports.SummaryMetric(panel.y)
        return reports.ScatterPlot(title=panel.title, x=x, y=y)
    return _bars(panel)


def _bars(panel: Bars) -> Any:
    reports = _package().reports
    return reports.BarPlot(
        title=panel.title,
        metrics=[panel.metric],
        groupby=reports.Config(panel.by),
        groupby_aggfunc="mean",
    )


def _place(number: int) -> Any:
    row, column = divmod(number, _COLUMNS)
    return _package().reports.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)


def _package() -> Any:
    """W&B's package for workspaces and reports."""
    try:
        import wandb_workspaces.reports.v2
        import wandb_workspaces.workspaces
    except ImportError:
        raise WorkspaceError(
            "A dashboard needs W&B's package wandb-workspaces. Run pip install 'launcher[dashboard]'."
        ) from None
    return _Package(wandb_workspaces.workspaces, wandb_workspaces.reports.v2)


class _Package:
    """The two halves of W&B's package.

    Args:
        workspaces: workspaces and their sections.
        reports: reports, and the panels of both.
    """

    def __init__(self, workspaces: Any, reports: Any) -> None:
        self.workspaces = workspaces
        self.reports = reports


def _refused(entity: str, project: str, error: BaseException) -> WorkspaceError:
    return WorkspaceError(
        f"W&B does not take the dashboard of {entity}/{project}: {brief(error)}. Is tracking.wandb.entity yours?"
    )
