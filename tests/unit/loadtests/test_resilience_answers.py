"""What the resilience run calls a good answer, a degraded one and a wrong one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtests.resilience.answers import STATIC_OUTPUTS, Judge, Outputs, known_outputs, padded
from loadtests.resilience.client import Reply
from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind

V1: Outputs = {"probabilities": [0.1, 0.9], "label": [1]}
V2: Outputs = {"probabilities": [0.8, 0.2], "label": [0]}
KNOWN = {"digits@v1": [V1], "digits@v2": [V2]}


def reply(outputs: Any = V2, *, by: str = "digits@v2", status: int = 200, **headers: str) -> Reply:
    degraded = headers.get("holdfast_degraded")
    document: dict[str, Any] = {"outputs": [{"name": name, "data": data} for name, data in outputs.items()]}
    if degraded is not None:
        document["parameters"] = {"degraded": degraded, "degraded_reason": "circuit_open"}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"holdfast-version": by, **sent}, json.dumps(document).encode())


def marked(outputs: Any, by: str, kind: str) -> Reply:
    return reply(outputs, by=by, holdfast_degraded=kind, holdfast_degraded_reason="circuit_open")


@pytest.mark.parametrize(
    ("answer", "kind", "note"),
    [
        (reply(), Kind.OK, ""),
        (reply({"probabilities": [0.8001, 0.1999], "label": [0]}), Kind.OK, ""),
        (marked(V1, "digits@v1", "version"), Kind.DEGRADED, "version"),
        (marked(V2, "digits@v2", "cache"), Kind.DEGRADED, "cache"),
        (marked(STATIC_OUTPUTS, "digits@static", "static"), Kind.DEGRADED, "static"),
        (reply(V1, by="digits@v1"), Kind.UNMARKED, "by digits@v1"),
        (reply(V1), Kind.WRONG, "another answer than in calm"),
        (reply({"probabilities": [0.8, float("nan")], "label": [0]}), Kind.WRONG, "broken or not finite"),
        (reply({"label": [0]}), Kind.WRONG, "another answer than in calm"),
        (reply(V2, by=""), Kind.WRONG, "by nobody"),
        (marked(V2, "digits@v1", "version"), Kind.WRONG, "another answer than in calm"),
        (marked(V1, "digits@v1", "magic"), Kind.WRONG, "marked 'magic', reason 'circuit_open'"),
        (reply()._replace(body=b"{"), Kind.WRONG, "not JSON"),
        (reply()._replace(body=b'{"outputs": 7}'), Kind.WRONG, "broken or not finite"),
        (reply(status=503), Kind.FAILED, "503"),
    ],
)
def test_answers_are_judged_by_what_the_version_said_in_calm(answer: Reply, kind: Kind, note: str) -> None:
    judged = Judge(KNOWN, ["digits@v2"]).judge(0, answer)
    assert (judged.kind, judged.note) == (kind, note)


def test_a_mark_only_in_the_headers_is_wrong() -> None:
    answer = marked(V1, "digits@v1", "version")
    document = json.loads(answer.body)
    del document["parameters"]
    judged = Judge(KNOWN, ["digits@v2"]).judge(0, answer._replace(body=json.dumps(document).encode()))
    assert judged.kind is Kind.WRONG


def test_the_first_of_each_kind_of_bad_answer_is_kept_to_be_shown() -> None:
    judge = Judge(KNOWN, ["digits@v2"])
    for _ in range(3):
        judge.judge(0, reply(status=503)._replace(body=b'{"error":"first"}'))
    judge.judge(0, reply(status=503)._replace(body=b'{"error":"second"}'))
    assert judge.examples == {"failed 503": 'digits@v2 {"error":"first"}'}


def test_a_padded_document_means_the_same() -> None:
    document = json.dumps({"inputs": [1, 2]}).encode()
    assert len(padded(document, 500)) == 500
    assert json.loads(padded(document, 500)) == {"inputs": [1, 2]}


def test_a_version_that_answers_badly_in_calm_ends_the_run() -> None:
    assert known_outputs("digits@v2", reply()) == V2
    for bad in (reply(status=503), reply(by="digits@v1"), reply()._replace(body=b"{")):
        with pytest.raises(RunError, match="digits@v2 gives no good answer in calm"):
            known_outputs("digits@v2", bad)
