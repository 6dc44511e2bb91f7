"""The live page with examples behind it, for tests in a browser and for looking at it.

``python -m tests.page_server outage`` plays a scene as a gateway would tell it, second by second. Commands are answered
as a test says. Not here: a system.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from serving.admin.page.routes import PageRoutes
from serving.ingress.http import Header, HttpRequest, HttpResponse
from serving.live.snapshot import Admin, Snapshot
from tests.snapshots import EXAMPLES, NOW, calm, canary, model, outage, snapshot

MOMENTS: Final = frozenset({"time", "since", "until", "at", "started_at", "retry_at"})
HOSTILE: Final = '<script>document.title="owned"</script><img src=x onerror=document.title="owned">'


class Command(NamedTuple):
    path: str
    token: str | None
    body: Any


def hostile() -> Snapshot:
    """Every text that comes from somewhere else would like to be markup."""
    return msgspec.convert(_spoiled(msgspec.to_builtins(canary())), Snapshot)


def many() -> Snapshot:
    """More models than one wants to look at, one of them in trouble."""
    well = [model(f"model-{number}", rate=3.5 * number, shadows=()) for number in range(1, 8)]
    return snapshot(*well, outage().models[0])


def with_token(scene: Callable[[], Snapshot]) -> Callable[[], Snapshot]:
    return lambda: msgspec.structs.replace(scene(), admin=Admin(open=True, token=True))


def with_incidents() -> Snapshot:
    document = msgspec.to_builtins(outage())
    newest = [
        {
            "id": 7,
            "time": NOW - 3,
            "model": "digits",
            "version": "v2",
            "outcome": "degraded",
            "failure": "model_failed",
            "answered_by": "digits@v1",
        },
        {
            "id": 6,
            "time": NOW - 9,
            "model": HOSTILE,
            "version": "v2",
            "outcome": "no_answer",
            "failure": "circuit_open",
        },
    ]
    document["incidents"] = {"kept": 212, "newest": newest}
    return msgspec.convert(document, Snapshot)


SCENES: Final[dict[str, Callable[[], Snapshot]]] = {
    **EXAMPLES,
    "empty": lambda: snapshot(events=()),
    "hostile": hostile,
    "incidents": with_incidents,
    "many": many,
    "token": with_token(canary),
}


class PageServer:
    """``scene`` makes what is told from now on; while ``silent``, nothing is. ``answer`` is given to commands."""

    def __init__(self) -> None:
        self.url = ""
        self.scene: Callable[[], Snapshot] = calm
        self.silent = False
        self.refused = False
        self.answer: Callable[[Command], tuple[int, Any]] = lambda _command: (200, {})
        self.commands: list[Command] = []
        self._page = PageRoutes()

    def told(self) -> bytes:
        """The scene as if it were now, on one line."""
        document = msgspec.to_builtins(self.scene())
        return msgspec.json.encode(_moved(document, time.time() - NOW))

    def file(self, path: str) -> HttpResponse | None:
        target = self._page.find(path)
        return None if target is None else asyncio.run(self._page.answer(HttpRequest("GET", path, {}, b""), target))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        page = self.server.page
        path = self.path.partition("?")[0]
        if path == "/v2/holdfast/live" and not page.refused:
            self.stream()
        elif path == "/v2/holdfast/live":
            self.reply(429, b'{"error":"64 are watching already"}')
        elif path == "/v2/holdfast/overview":
            self.reply(200, page.told())
        elif (found := page.file(unquote(path))) is not None:
            self.reply(found.status, found.body, found.headers)
        else:
            self.reply(404, b'{"error":"no such path"}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        command = Command(self.path, self.headers.get("authorization"), json.loads(body))
        self.server.page.commands.append(command)
        status, document = self.server.page.answer(command)
        self.reply(status, json.dumps(document).encode())

    def reply(self, status: int, body: bytes, headers: list[Header] | None = None) -> None:
        self.send_response(status)
        for name, value in headers or [(b"content-type", b"application/json")]:
            self.send_header(name.decode(), value.decode())
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        page = self.server.page
        with contextlib.suppress(OSError):  # whoever watched has gone
            while not self.server.closed.is_set():
                event = b": still here\n\n" if page.silent else b"event: snapshot\ndata: %b\n\n" % page.told()
                self.wfile.write(event)
                self.server.closed.wait(1.0)

    def log_message(self, *_: Any) -> None:
        """Not into the tests' output."""


class Server(ThreadingHTTPServer):
    def __init__(self, port: int, page: PageServer) -> None:
        self.page = page
        self.closed = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, *_: Any) -> None:
        """A browser that went away is no news."""


@contextmanager
def page_server(port: int = 0) -> Iterator[PageServer]:
    page = PageServer()
    with Server(port, page) as server:
        page.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield page
        finally:
            server.closed.set()
            server.shutdown()
            thread.join()


def _moved(told: Any, by: float) -> Any:
    """The same, so many seconds later."""
    if isinstance(told, (list, tuple)):
        return [_moved(one, by) for one in told]
    if not isinstance(told, dict):
        return told
    moved = {
        name: value + by if name in MOMENTS and value is not None else _moved(value, by) for name, value in told.items()
    }
    if "t" in moved:
        moved["t"] = [second + int(by) for second in moved["t"]]
    return moved


_KNOWN_WORDS: Final = frozenset({"state", "role", "kind", "phase", "can", "gateways", "steps"})
_NAMES: Final = frozenset({"attempts", "degraded_by_reason", "errors_by_reason", "rolled_back"})


def _spoiled(told: Any, key: str = "") -> Any:
    """The same with markup in every text that isn't one of a few known words."""
    if key in _KNOWN_WORDS and not isinstance(told, dict):
        return told
    if isinstance(told, str):
        return f"{told}{HOSTILE}"
    if isinstance(told, (list, tuple)):
        return [_spoiled(one, key) for one in told]
    if isinstance(told, dict):
        inside = "kind" if key == "gateways" else ""  # ports and the states of breakers
        return {
            (f"{name}{HOSTILE}" if key in _NAMES else name): _spoiled(one, inside or name) for name, one in told.items()
        }
    return told


def main(scene: str = "calm", port: str = "8642") -> None:
    with page_server(int(port)) as page:
        page.scene = SCENES[scene]
        sys.stderr.write(f"{scene} at {page.url}/admin, until Ctrl-C\n")
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
