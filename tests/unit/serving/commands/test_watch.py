"""Watching: to the end of a rollout, through moments without a server, and with the terminal given back after it."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.cli import main
from serving.commands import watch
from serving.commands.asking import Holdfast
from serving.commands.options import settings_of
from serving.rollout.desired import DesiredState
from serving.rollout.report import ControllerReport, Overview, overview
from serving.rollout.state import RolloutState
from tests.admin_server import AdminServer, Answer, admin_server
from tests.interrupts import ctrl_c_counts
from tests.rollouts import Run, at_first_weight, baking, shut_out

ROOT = Path(__file__).parents[4]
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def told(*states: RolloutState, controller: str = "writing", detail: str = "") -> Overview:
    desired = DesiredState(rollouts={state.spec.model: state for state in states})
    return overview(desired, ControllerReport(controller, detail, seq=57))


def succeeded() -> RolloutState:
    run = baking()
    run.windows(130, canary=200)
    return run.state


@pytest.fixture
def server() -> Iterator[AdminServer]:
    with admin_server() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.0)


def answering(server: AdminServer, *answers: Answer) -> None:
    """Gives these answers one after the other, the last one for ever."""
    left = list(answers)
    server.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]


def watched(server: AdminServer, folder: Path, *arguments: str) -> int:
    return main(["rollout", "watch", "digits", "-c", server.config(folder), *arguments])


def test_away_from_a_terminal_there_is_a_line_for_each_change(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = at_first_weight().state
    answering(server, (200, told(Run().state)), (200, told(first)), (200, told(first)), (200, told(succeeded())))
    assert watched(server, tmp_path) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split("  ")[3] for line in lines] == ["Starting", "Progressing", "Succeeded"]
    assert "\x1b" not in out
    assert err == ""
    assert {asked.line for asked in server.asked} == {"GET /v2/holdfast/rollouts"}


def test_a_rollout_that_was_taken_back_is_code_1(server: AdminServer, tmp_path: Path) -> None:
    run = shut_out()
    answering(server, (200, told(run.state)))
    assert watched(server, tmp_path) == 1


def test_it_goes_on_when_the_server_is_away_for_a_moment(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away: Answer = (503, {"error": "no control plane"})
    starting = told(controller="starting")
    answering(
        server,
        (200, told(at_first_weight().state)),
        away,
        (503, b"<html>HAProxy"),
        (200, starting),
        (200, told(succeeded())),
    )
    assert watched(server, tmp_path) == 0
    _, note, last, again = capsys.readouterr().out.splitlines()
    assert note.startswith("no control plane; trying again, what is here is ")
    assert "Succeeded" in last
    assert again == "Holdfast answers again"


def test_it_goes_on_when_nobody_listens_for_a_moment(tmp_path: Path) -> None:
    with admin_server() as before:
        answering(before, (200, told(at_first_weight().state)))
        settings, port = settings_of(Path(before.config(tmp_path))), before.port
        watching = watch.Watch(Holdfast(settings), "digits", sleep=lambda _: None, monotonic=lambda: 7.0)
        seen = watching.first()
    notes: list[str] = []

    class View:
        """Brings the server back once it has been missed twice."""

        def show(self, seen: watch.Seen) -> None:
            notes.append(seen.note)
            if len(notes) == 3:
                answering(servers.enter_context(admin_server(port)), (200, told(succeeded())))

    with ExitStack() as servers:
        assert watching.follow(seen, View()).report.phase == "Succeeded"
    assert len(notes) == 4
    assert notes[0] == notes[-1] == ""
    assert all(note.startswith(f"nobody answers as Holdfast at 127.0.0.1:{port}: ") for note in notes[1:3])
    assert all(note.endswith("trying again, what is here is 0 s old") for note in notes[1:3])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, told()), "'digits' never had a rollout; `holdfast rollout status` shows those that had one"),
        ((404, {"error": "no such path"}), "no such path"),
        ((200, told(controller="log_unavailable", detail="disk full")), "the controller's state is log_unavailable: "),
        ((200, b"<html>"), "the answer isn't one that this command understands"),
    ],
)
def test_what_cannot_be_watched_is_one_line_on_stderr(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Answer, said: str
) -> None:
    answering(server, answer)
    assert watched(server, tmp_path) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"holdfast rollout watch: {said}")
    assert err.count("\n") == 1


def test_a_screen_is_drawn_over_the_one_before() -> None:
    out = io.StringIO()
    screen = watch.Screen(out, color=False)
    with screen.entered():
        for _ in range(2):
            screen.show(watch.Seen(told(at_first_weight().state).rollouts[0], ControllerReport("writing")))
    text = out.getvalue()
    assert text.startswith(ENTER)
    assert text.endswith(LEAVE)
    _, *frames = text.split("\x1b[H")
    assert frames[0] == frames[1].removesuffix(LEAVE).removesuffix("\x1b[?25h")
    assert frames[0].endswith("\x1b[K\x1b[J")
    assert "\n" not in frames[0].replace("\x1b[K\r\n", "")


def in_a_terminal(config: str) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = pty.openpty()
    with ctrl_c_counts():
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.cli", "rollout", "watch", "digits", "-c", config],
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
        )
    os.close(slave)
    return process, master


def read_until(master: int, what: str, seconds: float = 30.0) -> str:
    """All that was written up to ``what``, or to the end if that never comes."""
    text, until = "", time.monotonic() + seconds
    while what not in text and time.monotonic() < until:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            text += os.read(master, 65536).decode()
        except OSError:  # the other side was closed
            break
    return text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_terminal_is_given_back_when_the_command_is_ended(
    server: AdminServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    answering(server, (200, told(at_first_weight().state)))
    process, master = in_a_terminal(server.config(tmp_path))
    try:
        drawn = read_until(master, "controller writing, event 57")
        assert ENTER in drawn
        assert "\x1b[1mdigits  v1 → v2" in drawn
        process.send_signal(number)
        assert LEAVE in read_until(master, LEAVE)
        assert process.wait(timeout=10) == code
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_the_last_screen_stays_on_the_terminal(server: AdminServer, tmp_path: Path) -> None:
    answering(server, (200, told(at_first_weight().state)), (200, told(succeeded())))
    process, master = in_a_terminal(server.config(tmp_path))
    try:
        text = read_until(master, "\x00")
        assert "Succeeded" in text.split(LEAVE)[-1]
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
