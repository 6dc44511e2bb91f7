"""``holdfast incidents``: what is asked, what is said, and with which code it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.inference import InferenceRequest, InferenceResponse, Tensor
from serving.cli import main
from serving.incidents.incident import Attempt, IncidentLine, IncidentPage, IncidentReport, kept_tensor
from serving.protocol.encode import encode_infer
from tests.admin_server import AdminServer, Answer, admin_server

PATH = "/v2/holdfast/incidents"
X = Tensor("x", "FP32", np.array([[1.0, 2.0]], np.float32))


def label(value: int) -> Tensor:
    return Tensor("label", "INT64", np.array([value], np.int64))


@pytest.fixture
def server() -> Iterator[AdminServer]:
    with admin_server() as fake:
        yield fake


def incident(number: int = 7, **more: Any) -> IncidentReport:
    given: dict[str, Any] = {
        "id": number,
        "wall": 1000.0,
        "model": "digits",
        "version": "v2",
        "outcome": "degraded",
        "failure": "model_failed",
        "fault": "digits@v2: it broke",
        "request_id": "r9",
        "seconds": 0.012,
        "waited_s": 0.002,
        "attempts": (
            Attempt(version="digits@v2", replica="abc", failure="model_failed", fault="it broke", seconds=0.01),
        ),
        "answered_by": "digits@v1",
        "rollout": "digits-3",
        "inputs": (kept_tensor(X, whole=True),),
        "outputs": (kept_tensor(label(3), whole=True),),
        "body": None,
    }
    return IncidentReport(**{**given, **more})


def line(number: int, **more: Any) -> IncidentLine:
    raw = msgspec.to_builtins(incident(number, **more))
    return msgspec.convert({name: raw[name] for name in IncidentLine.__struct_fields__}, IncidentLine)


def page(*lines: IncidentLine, following: int | None = None) -> IncidentPage:
    return IncidentPage(incidents=lines, next=following, kept=len(lines), bytes=9000)


def run(server: AdminServer, folder: Path, *arguments: str, **settings: Any) -> int:
    return main(["incidents", *arguments, "-c", server.config(folder, **settings)])


def answering(server: AdminServer, kept: IncidentReport, infer: Callable[[], Answer]) -> None:
    server.answer = lambda line: (200, kept) if line.startswith("GET") else infer()


# list


def test_the_list_has_a_line_for_each(server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda _: (200, page(line(8, outcome="model_failed", rollout="", request_id=""), line(7)))
    assert run(server, tmp_path, "list") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "8"
    assert first.split()[3:] == ["digits@v2", "model_failed", "-", "-", "digits@v2:", "it", "broke"]
    assert second.split()[3:7] == ["digits@v2", "degraded", "(model_failed)", "digits-3"]


def test_filters_and_the_end_of_the_list_are_the_servers_to_know(server: AdminServer, tmp_path: Path) -> None:
    server.answer = lambda _: (200, page())
    arguments = ["--model", "digits", "--version", "v2", "--outcome", "degraded", "--since", "1970-01-02T00:00+00:00"]
    assert run(server, tmp_path, "list", *arguments, "-n", "5") == 0
    query = "model=digits&version=v2&outcome=degraded&since=86400.0&limit=5"
    assert [asked.line for asked in server.asked] == [f"GET {PATH}?{query}"]


def test_a_long_list_is_asked_for_page_by_page(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda asked: (200, page(line(1)) if "before=8" in asked else page(line(8), following=8))
    assert run(server, tmp_path, "list", "--json") == 0
    assert [found["id"] for found in json.loads(capsys.readouterr().out)] == [8, 1]


def test_an_empty_list_says_so(server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda _: (200, page())
    assert run(server, tmp_path, "list") == 0
    assert capsys.readouterr().out == "no such incidents are kept\n"


def test_the_token_goes_with_the_question(server: AdminServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    server.answer = lambda _: (200, page())
    assert run(server, tmp_path, "list", "--token-file", str(token)) == 0
    assert server.asked[0].token == "Bearer 0123456789abcdef"


def test_without_the_token_it_says_how_to_give_it(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda _: (401, {"error": "it needs the header"})
    assert run(server, tmp_path, "show", "7") == 2
    assert "--token-file" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [["list", "--since", "soon"], ["show", "0"], ["show", "x"], ["list", "-n", "0"], []])
def test_what_can_not_be_meant_is_refused_before_anyone_is_asked(bad: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["incidents", *bad])


def test_nobody_there_is_one_line(server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = server.config(tmp_path, http={"port": 1})
    assert main(["incidents", "list", "-c", config]) == 2
    assert capsys.readouterr().err.startswith("holdfast incidents list: nobody answers as Holdfast at 127.0.0.1:1")


# show


def test_one_is_shown_whole(server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answering(server, incident(), lambda: (500, {}))
    assert run(server, tmp_path, "show", "7") == 0
    out = capsys.readouterr().out
    assert server.asked[0].line == f"GET {PATH}/7"
    assert out.startswith("incident 7, ")
    for said in (
        "model    digits@v2",
        "outcome  degraded, because of model_failed",
        "answer   by digits@v1",
        "took     12.0 ms, 2.0 ms of them in line",
        "attempt  digits@v2 abc: model_failed after 10.0 ms: it broke",
        "input    x  FP32 [1, 2]: 1, 2",
        "output   label  INT64 [1]: 3",
        "rollout  digits-3",
    ):
        assert said in out


def test_one_that_is_not_there_says_so(server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda _: (404, {"error": "there is no incident 9, or not any more"})
    assert run(server, tmp_path, "show", "9") == 2
    assert capsys.readouterr().err == "holdfast incidents show: there is no incident 9, or not any more\n"


def test_nothing_that_a_caller_wrote_moves_the_cursor(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(server, incident(request_id="\x1b[2J", fault="a\nb"), lambda: (500, {}))
    assert run(server, tmp_path, "show", "7") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "fault    a·b" in out


# replay: the fake server reads bodies as JSON, so a server of its own stands here


class Replaying:
    """Answers the incident, and to whatever is sent an inference's answer."""

    def __init__(self, kept: IncidentReport, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.kept = kept
        self.answer = status, body, headers
        self.sent: list[tuple[str, bytes]] = []


def replay(
    monkeypatch: pytest.MonkeyPatch, folder: Path, server: AdminServer, there: Replaying, *arguments: str
) -> int:
    from serving.commands import asking

    def send(_self: Any, path: str, body: bytes, _headers: dict[str, str]) -> asking.Answer:
        there.sent.append((path, body))
        status, answer, headers = there.answer
        return asking.Answer(status, headers, answer)

    server.answer = lambda _: (200, there.kept)
    monkeypatch.setattr(asking.Holdfast, "send", send)
    return run(server, folder, "replay", "7", *arguments)


def answered(*outputs: Tensor, by: str = "digits@v1", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    body, length = encode_infer(
        InferenceResponse("digits", "v1", outputs), InferenceRequest("m", (), binary_outputs=True)
    )
    return 200, body, {"inference-header-content-length": str(length), "holdfast-version": by, **headers}


def test_the_same_answer_is_said_to_be_the_same(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Replaying(incident(), *answered(label(3)))
    assert replay(monkeypatch, tmp_path, server, there, "--version", "v1") == 0
    assert there.sent[0][0] == "/v2/models/digits/versions/v1/infer"
    assert there.sent[0][1].endswith(X.array.tobytes())
    assert capsys.readouterr().out.splitlines() == [
        "incident 7, sent again to digits@v1",
        "  then     degraded: digits@v2: it broke",
        "  now      ok, by digits@v1",
        "  output   label: the same",
        "the same as then",
    ]


def test_another_answer_is_shown_beside_the_first_one(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Replaying(incident(), *answered(label(8), by="digits@v2"))
    assert replay(monkeypatch, tmp_path, server, there) == 1
    assert there.sent[0][0] == "/v2/models/digits/versions/v2/infer"
    assert capsys.readouterr().out.splitlines()[3:] == [
        "  output   label: 1 of 1 rows changed, at most 5 apart",
        "    then   INT64 [1]: 3",
        "    now    INT64 [1]: 8",
        "not the same as then",
    ]


@pytest.mark.parametrize(("fault", "code"), [("it broke", 0), ("it burns", 1)])
def test_two_errors_are_compared_by_what_they_say(
    server: AdminServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    fault: str,
    code: int,
) -> None:
    kept = incident(outcome="model_failed", fault="it broke", answered_by="", outputs=())
    there = Replaying(kept, 500, json.dumps({"error": fault}).encode(), {})
    assert replay(monkeypatch, tmp_path, server, there, "--json") == code
    found = json.loads(capsys.readouterr().out)
    assert (found["then"], found["now"], found["same"]) == ("model_failed: it broke", f"500: {fault}", not code)


def test_an_incident_without_its_inputs_can_not_be_sent(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Replaying(incident(inputs=(kept_tensor(X, whole=False),)), *answered())
    assert replay(monkeypatch, tmp_path, server, there) == 2
    assert capsys.readouterr().err == "holdfast incidents replay: incident 7: input 'x' was too large to be kept\n"
    assert there.sent == []


def test_an_answer_of_another_kind_is_an_error(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(monkeypatch, tmp_path, server, Replaying(incident(), 200, b"<html>", {})) == 2
    assert "isn't one that this command understands" in capsys.readouterr().err
