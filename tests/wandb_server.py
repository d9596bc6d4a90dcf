"""A stand-in for the W&B server on the loopback: as much of its protocol as a run needs that logs rows, online."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from tests.wandb_files import LoggedRun
from tests.wandb_views import RefusedError, Views

ENTITY = "someone"


class WandbServer:
    """Serves on a free port while it is entered, and keeps what the runs send.

    Args:
        takes_rows: False for a server that starts runs, and then answers their rows with an error.
        seconds: that it takes for an answer to rows; those that come later than its end are lost.

    Attributes:
        runs: the runs by their id.
        views: the projects, with their workspaces and reports.
    """

    def __init__(self, takes_rows: bool = True, seconds: float = 0.0) -> None:
        self.runs: dict[str, LoggedRun] = {}
        self.views = Views(ENTITY)
        self._seconds = seconds
        self._ending = threading.Event()
        self._takes_rows = takes_rows
        self._lock = threading.Lock()
        self._http = _HttpServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """What WANDB_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Take one request; returns the status and the content that it is answered with."""
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path)
        if stream and self._seconds and self._ending.wait(self._seconds):
            return 500, {}
        with self._lock:
            if path == "/graphql":
                request = json.loads(body)
                try:
                    return 200, {"data": self._query(request["query"], request.get("variables") or {})}
                except RefusedError as error:
                    return 200, {"data": None, "errors": [{"message": str(error)}]}
            if stream and not self._takes_rows:
                return 500, {}
            if stream:
                self._stream(self.runs[unquote(stream[1])], json.loads(body))
            return 200, {}

    def _query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        if name == "RunResumeStatus":
            return {"model": {"id": "project", "name": "project", "bucket": self._standing(variables["name"])}}
        if name == "UpsertBucket":
            return {"upsertBucket": self._upsert(variables)}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/storage/{file}"} for file in variables["files"]]
            run = _bucket_id(variables["run"])
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
        return self.views.answer(name, variables)

    def _standing(self, run_id: str) -> dict[str, Any] | None:
        """How far a run is, for a process that goes on with it."""
        if run_id not in self.runs:
            return None
        run = self.runs[run_id]
        return {
            "id": _bucket_id(run.id),
            "name": run.id,
            "displayName": run.name,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "wandbConfig": json.dumps({"t": 1}),
            "tags": list(run.tags),
        }

    def _upsert(self, sent: dict[str, Any]) -> dict[str, Any]:
        new = sent["name"] not in self.runs
        run = self.runs.setdefault(sent["name"], LoggedRun(id=sent["name"], project=sent["project"]))
        run.name = sent.get("displayName") or run.name
        run.entity = sent.get("entity") or ENTITY
        run.group = sent.get("groupName") or run.group
        run.sweep = sent.get("sweep") or run.sweep
        run.tags = tuple(sent.get("tags") or run.tags)
        if sent.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(sent["config"]).items()}
            run.x_axes = _x_axes(run.config.get("_wandb", {}).get("m", []))
        bucket = {"id": _bucket_id(run.id), "name": run.id, "displayName": run.name, "project": _project(run)}
        return {"bucket": bucket, "inserted": new}

    def _stream(self, run: LoggedRun, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            # The first line of what is sent takes this place; what was there and behind it is gone, as on W&B's own.
            run.history[history["offset"] :] = [json.loads(line) for line in history["content"]]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status, content = server.answer(self.path, body)
                answer = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST  # noqa: N815

        return Handler


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # W&B's process ends with its connections open.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _bucket_id(run: str) -> str:
    return base64.b64encode(f"Run:v1:{run}".encode()).decode()


def _project(run: LoggedRun) -> dict[str, Any]:
    return {"id": "project", "name": run.project, "entity": {"id": "entity", "name": run.entity}}


def _x_axes(metrics: list[dict[str, Any]]) -> dict[str, str]:
    """The x axis of each metric, from W&B's encoding.

    "1" is a metric's name, or "2" a pattern of names; "5" says which of the list is its x axis, counted from 1.
    """
    return {metric.get("1") or metric["2"]: metrics[metric["5"] - 1]["1"] for metric in metrics if "5" in metric}
