"""A Holdfast that only answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

Answer = tuple[int, Any]
"""A status, and what becomes JSON; bytes go out as they are."""


class Asked(NamedTuple):
    line: str
    token: str | None
    body: Any


class AdminServer:
    """``answer`` is told the method and path of each request. Set it again whenever something has changed."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self.answer: Callable[[str], Answer] = lambda line: (404, {"error": f"nothing at {line}"})

    def config(self, folder: Path, **settings: Any) -> str:
        """A configuration whose settings lead here."""
        arguments = {"http": {"port": self.port}, "state_dir": str(folder), **settings}
        path = folder / "serve.yaml"
        path.write_text(json.dumps({"applications": [{"import_path": "serving.app:build", "args": arguments}]}))
        return str(path)


@contextmanager
def admin_server(port: int = 0) -> Iterator[AdminServer]:
    fake = AdminServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            line = f"{self.command} {self.path}"
            fake.asked.append(Asked(line, self.headers.get("authorization"), json.loads(body) if body else None))
            status, document = fake.answer(line)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(document if isinstance(document, bytes) else msgspec.json.encode(document))

        do_GET = do_POST = answer  # noqa: N815  # the server's names

        def log_message(self, *_: Any) -> None:
            """Not into the tests' output."""

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        fake.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
