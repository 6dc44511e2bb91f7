"""``/metrics`` speaks for every gateway and model replica of the node, whichever gateway is asked."""

from __future__ import annotations

import functools

import pytest

from tests.integration.system import BLANK, VERSIONS, Sample, System, eventually

pytestmark = pytest.mark.integration

OF_GATEWAYS = {
    "holdfast_requests_total",
    "holdfast_request_duration_seconds_count",
    "holdfast_lane_waiting_requests",
    "holdfast_lane_inflight_batches",
    "holdfast_live_channels",
}
OF_REPLICAS = {
    "holdfast_model_compute_seconds_count",
    "holdfast_model_batch_rows_sum",
    "holdfast_model_failures_total",
    "holdfast_model_dropped_requests_total",
    "holdfast_golden_checks_total",
}


def requests(system: System, outcome: str, port: int | None = None) -> float:
    labels = {"model": "digits", "version": "v2", "outcome": outcome}
    return system.metrics(port).get(Sample("holdfast_requests_total", frozenset(labels.items())), 0)


def test_every_version_is_measured_in_gateways_and_replicas(system: System) -> None:
    for name in VERSIONS - {"orientation@v1"}:
        assert system.infer(name, BLANK).status == 200

    def missing() -> set[tuple[str, str]]:
        seen = {
            (sample.name, f"{labels['model']}@{labels['version']}")
            for sample in system.metrics()
            if {"model", "version"} <= (labels := dict(sample.labels)).keys()
        }
        wanted = {(metric, name) for metric in OF_GATEWAYS | OF_REPLICAS for name in VERSIONS}
        unasked = {(metric, "orientation@v1") for metric in OF_GATEWAYS if "request" in metric}
        return wanted - unasked - seen

    eventually(lambda: not missing(), lambda: f"measured: {missing()}", within_s=10)
    assert Sample("holdfast_routing_table_generation", frozenset()) in system.metrics()


def test_both_gateways_tell_the_same_and_never_less_than_before(system: System) -> None:
    before = system.metrics()
    for port in system.gateway_ports():
        for _ in range(5):
            assert system.infer("digits", BLANK, port=port).status == 200
    ok = Sample("holdfast_requests_total", frozenset({"model": "digits", "version": "v2", "outcome": "ok"}.items()))

    def counted(port: int) -> bool:
        return system.metrics(port)[ok] >= before.get(ok, 0) + 10

    for port in system.gateway_ports():
        eventually(functools.partial(counted, port), "all are counted", within_s=10)
        now = system.metrics(port)
        fallen = {sample for sample, value in before.items() if sample.counts and now.get(sample, 0) < value}
        assert not fallen


def test_a_bad_request_is_counted_as_one_and_not_as_a_failure_of_the_model(system: System) -> None:
    bad, ok = requests(system, "invalid_request"), requests(system, "ok")
    for _ in range(7):
        assert system.infer("digits", BLANK[:, :63]).status == 400
    eventually(lambda: requests(system, "invalid_request") == bad + 7, "seven bad requests are counted", within_s=10)
    assert requests(system, "ok") == ok


def test_processes_of_every_kind_are_counted(system: System) -> None:
    def running() -> dict[str, float]:
        found: dict[str, float] = {}
        for sample, value in system.metrics().items():
            if sample.name == "holdfast_processes":
                labels = dict(sample.labels)
                who = f"{labels['model']}@{labels['version']}" if labels["model"] else labels["kind"]
                found[who] = found.get(who, 0) + value
        return found

    wanted = {"gateway": len(system.gateway_ports()), "control": 1, "haproxy": 1}
    eventually(lambda: running().items() >= wanted.items(), lambda: f"{wanted} run: {running()}", within_s=15)
    assert running().keys() >= VERSIONS
    starts = Sample("holdfast_process_starts_total", frozenset({("kind", "haproxy"), ("model", ""), ("version", "")}))
    assert system.metrics()[starts] >= 1
