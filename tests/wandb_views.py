"""What the stand-in for the W&B server keeps of projects: their workspaces and reports, which W&B calls views."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any


class RefusedError(Exception):
    """What the server says to a question that it does not answer."""


@dataclass
class View:
    """A workspace or a report as it was saved last."""

    id: str
    project: str
    type: str
    name: str
    title: str
    spec: dict[str, Any]

    def told(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "displayName": self.title, "spec": json.dumps(self.spec)}


@dataclass
class Views:
    """The views of one entity's projects; another entity is not let in.

    Args:
        entity: whose projects these are.
    """

    entity: str
    projects: set[str] = field(default_factory=set)
    saved: list[View] = field(default_factory=list)

    def answer(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question by its name; empty where it is about something else."""
        if name in ("Viewer", "GetViewer", "GetDefaultEntity"):
            return {"viewer": {"id": "user", "entity": self.entity, "username": self.entity, "flags": "{}"}}
        if name == "CreateProject":
            self._let_in(sent["input"]["entityName"])
            self.projects.add(sent["input"]["name"])
            return {"result": {"project": None, "model": None, "inserted": True}}
        if name == "GetProjects":
            nodes = [self._project(project) for project in sorted(self.projects)]
            page = {"hasNextPage": False, "endCursor": None}
            return {"models": {"edges": [{"node": node, "cursor": ""} for node in nodes], "pageInfo": page}}
        if name == "ProjectInternalId":
            there = sent["entityName"] == self.entity and sent["projectName"] in self.projects
            return {"project": {"internalId": _encoded("ProjectInternalId:7")} if there else None}
        if name in ("View", "ProjectViews"):
            return {"project": self._views(sent, "project-view" if name == "View" else "runs")}
        if "upsert" in name.lower() and "spec" in sent:
            return {"upsertView": {"view": self._upsert(sent), "inserted": True}}
        return {}

    def _views(self, sent: dict[str, Any], kind: str) -> dict[str, Any] | None:
        project = sent.get("projectName") or sent.get("project") or sent["name"]
        if sent.get("entityName", sent.get("entity")) != self.entity or project not in self.projects:
            return None
        wanted = sent.get("viewName")
        found = [
            view for view in self.saved if view.project == project and view.type == kind and wanted in (None, view.name)
        ]
        page = {"hasNextPage": False, "endCursor": None}
        edges = [{"node": view.told(), "cursor": ""} for view in found]
        return {**self._project(project), "allViews": {"edges": edges, "pageInfo": page}}

    def _upsert(self, sent: dict[str, Any]) -> dict[str, Any]:
        self._let_in(sent["entityName"])
        if sent["projectName"] not in self.projects:
            raise RefusedError(f"project {sent['projectName']} not found")
        spec = json.loads(sent["spec"])
        known = {view.id: view for view in self.saved}
        view = known.get(sent.get("id") or "")
        if view is None:
            number = _encoded(f"View:{len(self.saved) + 1}")
            view = View(number, sent["projectName"], sent["type"], sent["name"], sent["displayName"], spec)
            self.saved.append(view)
        view.title, view.spec = sent["displayName"], spec
        return {**view.told(), "description": "", "project": self._project(view.project)}

    def _let_in(self, entity: str) -> None:
        if entity != self.entity:
            raise RefusedError(f"permission denied: {entity}")

    def _project(self, name: str) -> dict[str, Any]:
        made = {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        return {"id": _encoded(f"Project:{name}"), "name": name, "entityName": self.entity, **made}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")
