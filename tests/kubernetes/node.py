"""What a node answers to a server that asks for the output of its pods, over a real connection."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kubernetes.server import Server


class Node:
    """A node without a machine, whose pods have printed what a test says. Use it as a context.

    Attributes:
        name: what the server calls it.
        output: of each pod, by name.
        ended: set when those that follow an output have all of it.
    """

    name = "printing"

    def __init__(self, server: Server) -> None:
        self.output: dict[str, str] = {}
        self.ended = threading.Event()
        self._server = server
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificates / "apiserver.crt", server.certificates / "apiserver.key")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> Node:
        self._thread.start()
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name}}
        self._server.kubectl("create", "--filename=-", stdin=json.dumps(node))
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._http.server_port}},
        }
        self._server.say(f"/api/v1/nodes/{self.name}", status)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._server.kubectl("delete", "nodes", self.name)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urlsplit(self.path)  # /containerLogs/NAMESPACE/POD/CONTAINER
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                for line in node.output[asked.path.split("/")[3]].splitlines():
                    moment = "2026-11-28T14:22:38.754661Z " if "timestamps" in parse_qs(asked.query) else ""
                    self.wfile.write(f"{moment}{line}\n".encode())
                self.wfile.flush()
                if "follow" in parse_qs(asked.query):
                    node.ended.wait(60)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler
