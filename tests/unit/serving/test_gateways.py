"""``holdfast gateways restart`` follows a restart to its end, and says in one line how it went."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving import gateways
from serving.cli import main

RUNNING = {"state": "running", "restarted": [], "to_do": ["a", "b"], "reason": ""}
DONE = {"state": "done", "restarted": ["a", "b"], "to_do": [], "reason": ""}
FAILED = {"state": "failed", "restarted": ["a"], "to_do": ["b"], "reason": "gateway b wasn't replaced"}


@contextmanager
def holdfast(*answers: tuple[int, dict[str, Any]]) -> Iterator[tuple[int, list[str]]]:
    """Gives these answers, one after the other; its port, and what it was asked, with the token that came with it."""
    left = list(answers)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers['authorization'] or ''}".strip())
            status, document = left.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        do_GET = do_POST = answer  # noqa: N815  # the server's names

        def log_message(self, *_: Any) -> None:
            """Not into the tests' output."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def restart(folder: Path, port: int, *arguments: str, settings: str = "") -> int:
    config = folder / "serve.yaml"
    args = f"{{http: {{port: {port}}}, {settings}}}"
    config.write_text(f"applications: [{{import_path: 'serving.app:build', args: {args}}}]")
    return main(["gateways", "restart", "-c", str(config), *arguments])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "POLL_S", 0.0)


def test_it_waits_until_all_are_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress: list[tuple[int, dict[str, Any]]] = [
        (200, {"restart": RUNNING}),
        (503, {"error": "no control plane"}),
        (200, {"restart": DONE}),
    ]
    with holdfast((202, RUNNING), *progress) as (port, asked):
        assert restart(tmp_path, port) == 0
    assert asked == ["POST /v2/holdfast/gateways/restart", *["GET /v2/holdfast/gateways"] * 3]
    assert capsys.readouterr() == ("restarted 2 gateways\n", "")


def test_it_shows_the_token_for_what_it_changes_only(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with holdfast((202, RUNNING), (200, {"restart": DONE})) as (port, asked):
        assert restart(tmp_path, port, settings=f"admin_token_file: {tmp_path}/token") == 0
    assert asked == [
        "POST /v2/holdfast/gateways/restart Bearer 0123456789abcdef",
        "GET /v2/holdfast/gateways",
    ]


def test_without_the_token_nobody_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holdfast() as (port, asked):
        assert restart(tmp_path, port, settings=f"admin_token_file: {tmp_path}/token") == 1
    assert asked == []
    assert capsys.readouterr().err == f"holdfast: admin_token_file: {tmp_path}/token: no such file\n"


@pytest.mark.parametrize(
    ("answers", "arguments", "said"),
    [
        ([(202, RUNNING), (200, {"restart": FAILED})], [], "restarted 1 gateways, then: gateway b wasn't replaced"),
        ([(404, {"error": "switched off here"})], [], "refused with 404: switched off here"),
        ([(202, RUNNING)], ["--timeout", "0"], "restarted 0 gateways, then: still running after 0 s"),
    ],
)
def test_what_went_wrong_is_one_line_on_stderr_and_code_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answers: list[tuple[int, dict[str, Any]]],
    arguments: list[str],
    said: str,
) -> None:
    with holdfast(*answers) as (port, _):
        assert restart(tmp_path, port, *arguments) == 1
    assert capsys.readouterr() == ("", f"holdfast: {said}\n")


def test_that_nobody_answers_is_said_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holdfast() as (port, _):
        pass
    assert restart(tmp_path, port) == 1
    assert capsys.readouterr().err.startswith(f"holdfast: nobody answers as Holdfast at 127.0.0.1:{port}: ")
