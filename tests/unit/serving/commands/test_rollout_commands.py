"""``holdfast rollout``: what is sent, what is said, and with which code it ends."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.cli import main
from serving.rollout.desired import DesiredState
from serving.rollout.events import ClockTick, Wait
from serving.rollout.history import History, HistoryEvent
from serving.rollout.report import ControllerReport, overview, report
from tests.admin_server import AdminServer, Answer, admin_server
from tests.rollouts import ROLLOUT_YAML, Run, at_first_weight, rollout_spec, start_of

STARTED = report(Run().state)
UNDER_WAY = report(at_first_weight().state)
ROOT = Path(__file__).parents[4]
PATH = "/v2/holdfast/rollouts"


@pytest.fixture
def server() -> Iterator[AdminServer]:
    with admin_server() as fake:
        yield fake


def always(server: AdminServer, *answer: Any) -> None:
    status, document = answer
    server.answer = lambda _: (status, document)


def run(server: AdminServer, folder: Path, *arguments: str, **settings: Any) -> int:
    return main(["rollout", *arguments, "-c", server.config(folder, **settings)])


def written(folder: Path, text: str = ROLLOUT_YAML) -> str:
    path = folder / "canary.yaml"
    path.write_text(text)
    return str(path)


# start


def test_a_file_is_sent_as_it_is_with_who_and_why(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always(server, 201, STARTED)
    assert run(server, tmp_path, "start", "-f", written(tmp_path), "--who", "anna", "--why", "more accurate") == 0
    [asked] = server.asked
    assert asked.line == f"POST {PATH}"
    assert asked.body == {"file": ROLLOUT_YAML, "who": "anna", "why": "more accurate"}
    assert asked.token is None
    out, err = capsys.readouterr()
    assert out == "digits-1 is started: digits v1 → v2; `holdfast rollout watch digits` shows how it goes\n"
    assert err == ""


def test_without_a_name_it_is_whoever_is_logged_in(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "berta")
    always(server, 201, STARTED)
    run(server, tmp_path, "start", "-f", written(tmp_path))
    assert server.asked[0].body["who"] == "berta"


def test_a_user_without_a_name_is_a_number(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nameless)
    always(server, 201, STARTED)
    run(server, tmp_path, "start", "-f", written(tmp_path))
    assert server.asked[0].body["who"].startswith("user ")


def test_a_file_with_mistakes_is_not_sent_and_all_of_them_are_told(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "model: digits\nversion: v2\nsteps: [{setWeight: 50}, {setWeight: 5}]\nalpha: 2\n")
    assert run(server, tmp_path, "start", "-f", path) == 2
    assert server.asked == []
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [path] * len(lines)
    assert [line.split(": ")[1:3] for line in lines] == [
        ["line 3", "steps[1]"],
        ["line 3", "steps[1]"],
        ["line 4", "alpha"],
    ]


def test_a_file_that_cannot_be_read_is_one_line_and_code_2(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, tmp_path, "start", "-f", str(tmp_path / "nothing.yaml")) == 2
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff")
    assert run(server, tmp_path, "start", "-f", str(tmp_path / "image.yaml")) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("nothing.yaml: No such file or directory")
    assert "image.yaml: not a text file" in second
    assert server.asked == []


def test_what_the_server_refuses_is_said_on_stderr_with_code_1(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always(server, 409, {"error": "digits-1 (v1 to v2) of 'digits' is Progressing: wait until it ends"})
    assert run(server, tmp_path, "start", "-f", written(tmp_path)) == 1
    said = "holdfast rollout start: digits-1 (v1 to v2) of 'digits' is Progressing: wait until it ends\n"
    assert capsys.readouterr() == ("", said)


# orders


@pytest.mark.parametrize("command", ["pause", "resume", "promote", "abort", "rollback"])
def test_an_order_is_sent_and_what_follows_is_said(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    always(server, 200, msgspec.structs.replace(UNDER_WAY, phase="Paused", reason="paused by anna: lunch"))
    assert run(server, tmp_path, command, "digits", "--who", "anna", "--why", "lunch") == 0
    assert server.asked[0][::2] == (f"POST {PATH}/digits/{command}", {"who": "anna", "why": "lunch"})
    assert capsys.readouterr().out == "digits-1 is Paused: paused by anna: lunch\n"


def test_a_models_name_cannot_lead_elsewhere(server: AdminServer, tmp_path: Path) -> None:
    always(server, 404, {"error": "no"})
    assert run(server, tmp_path, "abort", "../x?y", "--who", "anna") == 1
    assert server.asked[0].line == f"POST {PATH}/..%2Fx%3Fy/abort"


# the token


def test_an_order_carries_the_token_that_the_file_has_and_a_question_none(server: AdminServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-of-the-house\nand a comment\n")
    always(server, 200, UNDER_WAY)
    assert run(server, tmp_path, "pause", "digits", "--token-file", str(tmp_path / "token")) == 0
    assert run(server, tmp_path, "status", "digits") == 0
    assert [asked.token for asked in server.asked] == ["Bearer secret-of-the-house", None]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "its first line is empty; the token belongs there"),
        (b"two words", "a token is made of visible ASCII characters without spaces"),
        (b"tab\there", "a token is made of visible ASCII characters without spaces"),
        (b"\xff", "a token is made of visible ASCII characters without spaces"),
    ],
)
def test_a_file_without_a_token_is_said_and_nothing_sent(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    assert run(server, tmp_path, "pause", "digits", "--token-file", str(path)) == 1
    assert server.asked == []
    assert capsys.readouterr().err == f"holdfast rollout pause: admin_token_file: {path}: {said}\n"


# status


def test_status_has_a_line_for_each_model(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always(server, 200, overview(DesiredState(rollouts={"digits": Run().state}), ControllerReport("writing")))
    assert run(server, tmp_path, "status") == 0
    assert capsys.readouterr().out == (
        "digits  v1 → v2  Starting  step 0/5  0 %  evidence 1/150  v2 is being deployed\n"
    )


def test_status_of_a_model_is_a_screen_without_colours_away_from_a_terminal(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always(server, 200, UNDER_WAY)
    assert run(server, tmp_path, "status", "digits") == 0
    assert server.asked[0].line == f"GET {PATH}/digits"
    out = capsys.readouterr().out
    for word in ("digits  v1 → v2", "▶ wait 60s", "evidence", "waits for  60 s more of the pause", "findings"):
        assert word in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (("status", "digits"), UNDER_WAY),
        (("status",), {"controller": {"state": "writing", "new": 1}, "rollouts": [], "rolled_back": {}}),
        (("pause", "digits"), UNDER_WAY),
    ],
)
def test_in_json_is_printed_what_the_api_gave(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], document: Any
) -> None:
    always(server, 200, document)
    assert run(server, tmp_path, *arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(msgspec.json.encode(document))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {"error": "'digits' never had a rollout"}), "'digits' never had a rollout"),
        ((503, {"error": "no control\x1b[2J plane"}), "no control·[2J plane"),
        ((503, b"<html><body>"), "refused with 503: no gateway is there to answer"),
        ((500, {"no": "error"}), "refused with 500: without a reason"),
        ((200, b"<html>"), "the answer isn't one that this command understands: "),
        ((200, {"rollout": 1}), "the answer isn't one that this command understands: "),
    ],
)
def test_an_answer_that_is_none_is_one_line_on_stderr_and_code_1(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Answer, said: str
) -> None:
    always(server, *answer)
    assert run(server, tmp_path, "status", "digits") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"holdfast rollout status: {said}")
    assert err.count("\n") == 1


def test_that_nobody_answers_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with admin_server() as fake:
        config = fake.config(tmp_path)
    assert main(["rollout", "status", "-c", config]) == 1
    said = f"holdfast rollout status: nobody answers as Holdfast at 127.0.0.1:{fake.port}: "
    assert capsys.readouterr().err.startswith(said)


def in_a_pipe(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    program = f"{shlex.quote(sys.executable)} -m serving.cli rollout {command}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", program.replace("PIPE", "|")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_a_terminal_that_knows_no_arrow_gets_something_else(server: AdminServer, tmp_path: Path) -> None:
    always(server, 200, UNDER_WAY)
    result = in_a_pipe(f"status digits -c {server.config(tmp_path)}", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"digits  v1 ? v2" in result.stdout


def test_a_reader_that_has_enough_is_no_error_to_talk_about(server: AdminServer, tmp_path: Path) -> None:
    always(server, 200, History(EVENTS[:1] * 5000, None))
    result = in_a_pipe(f"history digits -c {server.config(tmp_path)} PIPE head -1")
    assert result.stderr == b""
    assert result.stdout.count(b"\n") == 1


def test_who_has_no_token_is_told_how_to_give_one(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always(server, 401, {"error": "it needs a token"})
    assert run(server, tmp_path, "pause", "digits") == 1
    assert "it needs a token; --token-file names" in capsys.readouterr().err
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    assert run(server, tmp_path, "pause", "digits", "--token-file", str(token)) == 1
    assert capsys.readouterr().err == "holdfast rollout pause: it needs a token\n"


# history

EVENTS: tuple[HistoryEvent, ...] = (
    HistoryEvent(3, 1003.0, None, "digits-1", start_of(rollout_spec())),
    HistoryEvent(5, 1005.0, 3, "digits-1", Wait(at=1, id=3, step=1)),
    HistoryEvent(9, 1009.0, None, "digits-1", ClockTick(at=1)),
)


def paged(line: str) -> Answer:
    after = int(line.partition("after=")[2].partition("&")[0])
    left = [event for event in EVENTS if event.seq > after]
    return 200, History(tuple(left[:2]), left[1].seq if len(left) > 2 else None)


def test_a_history_is_read_to_its_end(server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = paged
    assert run(server, tmp_path, "history", "digits") == 0
    assert [asked.line.partition("?")[0] for asked in server.asked] == [f"GET {PATH}/digits/history"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:5] for line in lines] == [
        ["3", "digits-1", "Start"],
        ["5", "digits-1", "Wait"],
        ["9", "digits-1", "ClockTick"],
    ]


def test_a_history_can_begin_later_and_be_json(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = paged
    assert run(server, tmp_path, "history", "digits", "--after", "3", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [event["seq"] for event in document["events"]] == [5, 9]
    assert document["events"][0]["event"]["event"] == "Wait"
    assert document["next"] is None


@pytest.mark.parametrize(("after", "since"), [((), ""), (("--after", "7"), " after event 7")])
def test_a_history_without_events_says_so(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], after: tuple[str, ...], since: str
) -> None:
    always(server, 200, History((), None))
    assert run(server, tmp_path, "history", "digits", *after) == 0
    assert capsys.readouterr().out == f"nothing has happened to rollouts of 'digits'{since}\n"


def test_an_answer_that_leads_back_does_not_go_on_for_ever(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always(server, 200, History(EVENTS[:1], 0))
    assert run(server, tmp_path, "history", "digits") == 1
    assert len(server.asked) == 1
    assert capsys.readouterr().err == "holdfast rollout history: the answer leads back to event 0\n"


# lint


def test_lint_says_of_every_file_how_it_is_and_asks_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = written(tmp_path), tmp_path / "bad.yaml"
    bad.write_text("model: digits\n")
    assert main(["rollout", "lint", good]) == 0
    assert main(["rollout", "lint", str(bad), str(tmp_path / "none.yaml"), good]) == 2
    out, err = capsys.readouterr()
    assert out == f"{good}: right: digits@v2 through 5 %, 25 %, 100 %\n" * 2
    assert err.splitlines() == [
        f"{bad}: line 1: steps: missing",
        f"{bad}: line 1: version: missing",
        f"{tmp_path / 'none.yaml'}: No such file or directory",
    ]


@pytest.mark.parametrize("arguments", [[], ["start"], ["watch"], ["pause"], ["lint"], ["history"], ["fly", "digits"]])
def test_a_wrong_command_shows_the_usage_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rollout", *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: holdfast rollout")
