"""One request on a real system is found by its id and its trace: at the collector, in the log, among the incidents."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models.inference import Array
from tests.integration.system import Answer, System, eventually, infer_document, infer_path
from tests.otlp import FakeOtlp, SentSpan

pytestmark = pytest.mark.integration

FAULTS = "/v2/holdfast/faults"
IMAGE: Array = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64)
CALLER = "b7ad6b7169203331"
ROOT = "POST /v2/models/{model}/infer"


def ask(system: System, trace_id: str, *, sampled: bool = True, request_id: str = "order-7") -> Answer:
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-0{int(sampled)}", "x-request-id": request_id}
    return system.ask("POST", infer_path("digits"), infer_document("digits", IMAGE), headers)


def spans(collector: FakeOtlp, trace_id: str) -> list[SentSpan]:
    """All of a trace: its own span comes first in the same batch, and is the only one with a caller's."""
    return eventually(lambda: collector.trace(trace_id), f"spans of {trace_id} arrive at the collector")


def lines(system: System) -> list[dict[str, Any]]:
    """Every line that one of the system's processes has written."""
    logs = sorted((system.folder / "ray" / "session_latest" / "logs").glob("worker-*.err"))
    texts = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
    return [json.loads(text) for text in texts if text.startswith("{")]


def line_of(system: System, trace_id: str) -> dict[str, Any]:
    def found() -> Any:
        return next((line for line in lines(system) if line.get("trace_id") == trace_id), None)

    line: dict[str, Any] = eventually(found, f"a line about {trace_id} is written")
    return line


def names(found: list[SentSpan]) -> list[tuple[str, str]]:
    """Each span with the name of what it belongs to."""
    by_id = {span.span_id: span.name for span in found}
    return [(span.name, by_id.get(span.parent_id, span.parent_id)) for span in found]


def test_a_good_request_is_one_trace_from_its_caller_to_the_model_run(observed: System, collector: FakeOtlp) -> None:
    trace_id = "11" * 16
    answer = ask(observed, trace_id)
    assert (answer.status, answer.headers["x-request-id"]) == (200, "order-7")
    found = spans(collector, trace_id)
    assert sorted(names(found)) == sorted(
        [
            (ROOT, CALLER),
            ("decode", ROOT),
            ("admit", ROOT),
            ("attempt", ROOT),
            ("model run", "attempt"),
            ("encode", ROOT),
        ]
    )
    root = next(span for span in found if span.name == ROOT)
    assert answer.headers["traceresponse"] == f"00-{trace_id}-{root.span_id}-01"
    assert root.resource["service.name"] == "reef"
    assert (root.attributes["holdfast.request_id"], root.attributes["holdfast.answered_by"]) == ("order-7", "digits@v2")
    run = next(span for span in found if span.name == "model run")
    assert root.began <= run.began < run.ended <= root.ended
    assert run.attributes["holdfast.replica"]
    children = sorted((span for span in found if span.parent_id == root.span_id), key=lambda span: span.began)
    assert all(before.ended <= after.began + 1000 for before, after in pairwise(children))
    line = line_of(observed, trace_id)
    assert (line["message"], line["request_id"], line["level"]) == ("digits@v2: ok", "order-7", "INFO")


def test_a_failure_is_joined_by_its_trace_in_spans_log_and_incidents(observed: System, collector: FakeOtlp) -> None:
    trace_id = "22" * 16
    fault = {"model": "digits", "version": "v2", "replica": "all", "fault": {"fail_rate": 1.0}}
    assert observed.ask("POST", FAULTS, fault).status == 200
    answer = ask(observed, trace_id, request_id="order-8")
    assert observed.ask("DELETE", FAULTS).status == 200
    assert (answer.status, answer.headers["holdfast-degraded"]) == (200, "version")
    found = spans(collector, trace_id)
    assert ("attempt", "fallback") in names(found)
    outcomes = {span.attributes["holdfast.version"]: span for span in found if span.name == "attempt"}
    assert {version: span.attributes["holdfast.outcome"] for version, span in outcomes.items()} == {
        "v2": "model_failed",
        "v1": "ok",
    }
    assert [span.attributes["holdfast.version"] for span in found if span.name == "model run"] == ["v1"]
    line = line_of(observed, trace_id)
    assert (line["level"], line["outcome"], line["failure"]) == ("WARNING", "degraded", "model_failed")

    def kept() -> Any:
        incidents = observed.ask("GET", "/v2/holdfast/incidents?model=digits").json()["incidents"]
        return next((each for each in incidents if each["trace_id"] == trace_id), None)

    incident: dict[str, Any] = eventually(kept, "the incident is kept")
    replica = outcomes["v2"].attributes["holdfast.replica"]
    assert (incident["attempts"][0]["replica"], line["replica"]) == (replica, replica)
    assert {incident["request_id"], line["request_id"], found[0].attributes["holdfast.request_id"]} == {"order-8"}


def test_a_caller_who_does_not_sample_is_found_in_the_log_alone(observed: System, collector: FakeOtlp) -> None:
    trace_id = "33" * 16
    answer = ask(observed, trace_id, sampled=False)
    assert "traceresponse" not in answer.headers
    assert line_of(observed, trace_id)["outcome"] == "ok"
    later = "44" * 16
    ask(observed, later)
    spans(collector, later)
    assert collector.trace(trace_id) == []


def test_every_line_of_every_process_is_an_object_of_json(observed: System) -> None:
    found = lines(observed)
    assert all({"time", "level", "logger", "message", "pid"} <= line.keys() for line in found)
    logs = (observed.folder / "ray" / "session_latest" / "logs").glob("worker-*.err")
    texts = [text for log in logs for text in log.read_text().splitlines()]
    assert [text for text in texts if re.search(r" [A-Z]+ holdfast[.:]", text) and not text.startswith("{")] == []
    assert {line["logger"] for line in found} >= {"holdfast.gateway", "holdfast.haproxy", "holdfast.requests"}


def test_a_collector_that_is_gone_harms_nobody_and_is_counted(observed: System, collector: FakeOtlp) -> None:
    collector.refusing = True
    try:
        for number in range(20):
            assert ask(observed, f"{number + 1:032x}").status == 200

        def dropped() -> float:
            return sum(
                value
                for sample, value in observed.metrics().items()
                if sample.name == "holdfast_trace_requests_dropped_total" and ("reason", "export") in sample.labels
            )

        eventually(lambda: dropped() == 20, "what couldn't be sent is counted")
    finally:
        collector.refusing = False
