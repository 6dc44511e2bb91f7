"""Replicas of a real system fail because they were told to, over HTTP, and are well again when told so or replaced.

Nothing that protects a request is on here: what is commanded must be seen.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.system import BLANK, Answer, System, eventually

pytestmark = pytest.mark.integration

LITE = "ray::ServeReplica:digits-lite@v1:Model"
FAULTS = "/v2/holdfast/faults"


@pytest.fixture
def faulty(unprotected: System) -> System:
    """With two replicas that are well."""
    system = unprotected
    system.ask("DELETE", FAULTS)
    eventually(lambda: len(replicas(system)) == 2 and statuses(system) == {200: 40}, "two replicas are well")
    return system


def ours(answer: Answer) -> list[dict[str, Any]]:
    """The entries of a list that are about the model that is hurt here."""
    return [entry for entry in answer.json() if entry["model"] == "digits-lite"]


def replicas(system: System) -> dict[str, int]:
    """The pid of every replica by its id."""
    (version,) = ours(system.ask("GET", "/v2/holdfast/replicas"))
    assert version["version"] == "v1"
    return {replica["id"]: replica["pid"] for replica in version["replicas"]}


def cause(system: System, replica: str = "one", **fault: Any) -> list[dict[str, Any]]:
    """Command a fault; the entries of the replicas that were meant."""
    answer = system.ask("POST", FAULTS, {"model": "digits-lite", "replica": replica, "fault": fault})
    assert answer.status == 200, answer
    return [entry for entry in answer.json() if entry["meant"]]


def asked(system: System) -> list[Answer]:
    """Forty answers to requests that come four at a time, so that both replicas have work."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: system.infer("digits-lite", BLANK), range(40)))


def statuses(system: System) -> dict[int, int]:
    return Counter(answer.status for answer in asked(system))


def test_every_replica_is_listed_with_its_process(faulty: System) -> None:
    assert sorted(replicas(faulty).values()) == faulty.pids(LITE)


def test_one_replica_fails_until_it_is_told_to_stop(faulty: System) -> None:
    (meant,) = cause(faulty, fail_rate=1.0)
    assert (meant["replica"], meant["answered"]) == (min(replicas(faulty)), True)
    assert [entry["fault"] for entry in ours(faulty.ask("GET", FAULTS)) if entry["fault"]] == [{"fail_rate": 1.0}]
    seen = statuses(faulty)
    assert set(seen) == {200, 500}
    answer = faulty.ask("DELETE", FAULTS, {"model": "digits-lite", "replica": "one"})
    assert [entry["fault"] for entry in ours(answer)] == [None, None]
    assert statuses(faulty) == {200: 40}


def test_serve_takes_a_replica_that_fails_every_request_for_well(faulty: System) -> None:
    """Else it would replace it before anyone has seen how the gateways deal with it."""
    before = replicas(faulty)
    cause(faulty, "all", fail_rate=1.0, slow_ms=50, nan_rate=1.0)
    passed, failed = golden_checks(faulty, "passed"), golden_checks(faulty, "failed")
    eventually(lambda: golden_checks(faulty, "passed") >= passed + 10, "each replica was checked five times more")
    assert (golden_checks(faulty, "failed"), replicas(faulty)) == (failed, before)


def golden_checks(system: System, result: str) -> float:
    metrics = system.metrics()
    return sum(
        value
        for sample, value in metrics.items()
        if sample.name == "holdfast_golden_checks_total" and ("result", result) in sample.labels
    )


def test_wrong_answers_and_slow_ones_are_what_was_commanded(faulty: System) -> None:
    cause(faulty, "all", wrong_shape_rate=1.0)
    answer = faulty.infer("digits-lite", BLANK)
    assert (answer.status, "invalid answer" in answer.error()) == (500, True)
    cause(faulty, "all", slow_ms=300)
    began = time.monotonic()
    assert faulty.infer("digits-lite", BLANK).status == 200
    assert time.monotonic() - began > 0.3


def test_a_fault_ends_by_itself(faulty: System) -> None:
    assert all(entry["left_s"] <= 2 for entry in cause(faulty, "all", fail_rate=1.0, for_s=2.0))
    assert faulty.infer("digits-lite", BLANK).status == 500
    eventually(lambda: faulty.infer("digits-lite", BLANK).status == 200, "the fault is over")


@pytest.mark.parametrize("what", ["cut", "garble"])
def test_channels_are_lost_and_then_back(faulty: System, what: str) -> None:
    cause(faulty, "all", channel=what)
    eventually(lambda: 503 in statuses(faulty), "requests are lost with the channel")
    assert [entry["answered"] for entry in ours(faulty.ask("GET", FAULTS))] == [True, True]  # through Serve's handle
    faulty.ask("DELETE", FAULTS)
    # A replica whose connection has just broken is taken for dead until it has been dialled again, 50 ms later.
    eventually(lambda: statuses(faulty) == {200: 40}, "the channels are back")


def test_while_channels_stall_requests_go_through_serves_handle(faulty: System) -> None:
    cause(faulty, "all", channel="stall")
    assert faulty.infer("digits-lite", BLANK).status == 504
    eventually(lambda: statuses(faulty) == {200: 40}, "the handle is used")
    assert [entry["fault"] for entry in ours(faulty.ask("GET", FAULTS))] == [{"channel": "stall"}] * 2


def test_a_replica_that_exits_is_replaced_by_one_that_is_well(faulty: System) -> None:
    before = replicas(faulty)
    (meant,) = cause(faulty, exit=True)
    eventually(
        lambda: len(now := replicas(faulty)) == 2 and before[meant["replica"]] not in now.values(),
        "there are two replicas again, one of them new",
    )
    assert [entry["fault"] for entry in ours(faulty.ask("GET", FAULTS))] == [None, None]


@pytest.mark.parametrize("what", ["model", "loop"])
def test_a_replica_that_hangs_is_still_listed_and_holds_nobody_up_until_it_is_replaced(
    faulty: System, what: str
) -> None:
    before = replicas(faulty)
    (meant,) = cause(faulty, hang=what)
    assert meant["answered"]  # it hangs after that
    assert meant["replica"] in replicas(faulty)

    def answers() -> bool:
        began = time.monotonic()
        entries = ours(faulty.ask("GET", FAULTS))
        assert time.monotonic() - began < 20
        (answered,) = (entry["answered"] for entry in entries if entry["replica"] == meant["replica"])
        return bool(answered)

    eventually(lambda: answers() is (what == "model"), "only a loop that hangs is silent")
    eventually(
        lambda: len(now := replicas(faulty)) == 2 and before[meant["replica"]] not in now.values(),
        "there are two replicas again, one of them new",
    )


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"model": "kelp"}, 404, "model 'kelp'"),
        ({"version": "v9"}, 404, "version 'v9'"),
        ({"replica": "nobody"}, 400, "replica: "),
        ({"fault": {"fail_rate": 2}}, 400, "fault.fail_rate: "),
        ({"fault": {"rate": 1}}, 400, "fault: unknown field `rate`"),
    ],
)
def test_what_can_not_be_commanded_is_refused(faulty: System, change: dict[str, Any], status: int, text: str) -> None:
    answer = faulty.ask("POST", FAULTS, {"model": "digits-lite", "fault": {"exit": True}} | change)
    assert (answer.status, text in answer.error()) == (status, True), answer


def test_where_it_is_not_allowed_there_is_nothing(system: System) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = system.ask(method, FAULTS, {"model": "digits", "fault": {"exit": True}})
        assert (answer.status, "setting `faults`" in answer.error()) == (404, True)
    assert len(system.ask("GET", "/v2/holdfast/replicas").json()) == 4
