"""The users' program against a small server of its own: is the load open, and is everything written down?"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.users.plan import is_loopback
from loadtests.users.rows import Outcome, Row, parse_rows

ROOT = Path(__file__).parents[3]
RIGHT = {"label": [3.0]}
SECONDS = 2.0


def answer(label: float = 3.0, status: int = 200) -> bytes:
    output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [label]}
    body = json.dumps({"outputs": [output]}).encode()
    head = f"HTTP/1.1 {status} X\r\nholdfast-version: digits@v2\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Server:
    """Answers every connection's requests in a thread of its own; `reply` is asked for each, and may wait."""

    def __init__(self, reply: Callable[[], bytes]) -> None:
        self._reply = reply
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while self._request(connection):
                try:
                    connection.sendall(self._reply())
                except OSError:
                    return

    @staticmethod
    def _request(connection: socket.socket) -> bool:
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                if not (more := connection.recv(65536)):
                    return False
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            while len(body) < length:
                if not (more := connection.recv(65536)):
                    return False
                body += more
        except OSError:
            return False
        return True


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[], bytes]], Server]]:
    servers: list[Server] = []

    def start(reply: Callable[[], bytes]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def plan(port: int, folder: Path, *, host: str = "127.0.0.1", **users: int) -> Path:
    document: dict[str, Any] = {
        "host": host,
        "port": port,
        "seed": "1",
        "calm_s": 1,
        "load": {"rate": 25, "seconds": SECONDS, "users": users or {"json": 1}},
        "known": {"digits@v2": [RIGHT] * 20},
        "stable": {"digits": ["digits@v2"], "digits-lite": ["digits@v2"]},
        "samples": str(folder / "samples.csv"),
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(document))
    return path


def send(path: Path) -> list[Row]:
    words = [sys.executable, "-m", "loadtests.users", str(path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said, _ = process.communicate(f"go {time.monotonic()}\n", timeout=60)
        assert process.returncode == 0
    rows = parse_rows((path.parent / "samples.csv").read_text().splitlines()[1:])
    assert json.loads(said)["requests"] == len(rows)
    return rows


def test_a_stall_delays_nobody_but_is_told_of_everyone(
    serve: Callable[[Callable[[], bytes]], Server], tmp_path: Path
) -> None:
    """All wait for the same moment: the latencies of an open load tell when each was due."""
    first: list[float] = []

    def late() -> bytes:
        first.append(time.monotonic())
        time.sleep(max(0.0, first[0] + 2 * SECONDS - time.monotonic()))
        return answer()

    rows = send(plan(serve(late).port, tmp_path))
    assert len(rows) == 50
    assert {row.outcome for row in rows} == {Outcome.OK}
    assert max(row.sent_s for row in rows) < min(row.done_s for row in rows)
    assert max(row.took_s for row in rows) - min(row.took_s for row in rows) > SECONDS / 2


def test_every_answer_is_judged(serve: Callable[[Callable[[], bytes]], Server], tmp_path: Path) -> None:
    broken = b"HTTP/1.1 200 OK\r\nholdfast-version: digits@v2\r\ncontent-length: 3\r\n\r\nNaN"
    expected = {
        answer(3): (Outcome.OK, 200),
        answer(4): (Outcome.WRONG, 200),
        answer(3, 429): (Outcome.SHED, 429),
        answer(3, 503): (Outcome.ERROR, 503),
        broken: (Outcome.WRONG, 200),
        b"rubbish\r\n\r\n": (Outcome.ERROR, 0),
    }
    replies = list(expected)
    turn = itertools.count()
    given: list[bytes] = []

    def reply() -> bytes:
        given.append(replies[next(turn) % len(replies)])
        return given[-1]

    rows = send(plan(serve(reply).port, tmp_path))
    assert Counter((row.outcome, row.status) for row in rows) == Counter(expected[raw] for raw in given)


def test_who_cancels_isnt_an_error_and_who_reads_slowly_is_answered(
    serve: Callable[[Callable[[], bytes]], Server], tmp_path: Path
) -> None:
    rows = send(plan(serve(answer).port, tmp_path, cancelling=1, slow_readers=1))
    assert {(row.user, row.outcome) for row in rows} == {
        ("cancelling", Outcome.CANCELLED),
        ("slow_readers", Outcome.OK),
    }


def test_nobody_there_is_an_error_of_each(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    rows = send(plan(port, tmp_path))
    assert [(row.outcome, row.status) for row in rows] == [(Outcome.ERROR, 0)] * 50


def test_a_load_is_only_sent_to_this_machine(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "loadtests.users", str(plan(80, tmp_path, host="192.0.2.1"))]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2
    assert found.stderr == "users: 192.0.2.1 isn't loopback: a load is only sent to this machine\n"


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("1.1.1.1", False)],
)
def test_loopback_is_what_never_leaves_this_machine(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours
