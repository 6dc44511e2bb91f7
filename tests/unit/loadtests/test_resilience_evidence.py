"""What the system's counters say of a scenario."""

from __future__ import annotations

from loadtests.resilience.evidence import counters, described, grown, missing

METRICS = """\
# HELP holdfast_attempts_total Attempts at a version by how they ended.
# TYPE holdfast_attempts_total counter
holdfast_attempts_total{model="digits",version="v2",outcome="ok"} 100.0
holdfast_attempts_total{model="digits",version="v2",outcome="replica_lost"} 3.0
# HELP holdfast_retries_total Further attempts.
# TYPE holdfast_retries_total counter
holdfast_retries_total{model="digits",version="v2"} 2.0
# HELP holdfast_requests_total Requests.
# TYPE holdfast_requests_total counter
holdfast_requests_total{model="digits",version="v2",outcome="ok"} 100.0
"""
OK, LOST = ("holdfast_attempts", "digits@v2", "ok"), ("holdfast_attempts", "digits@v2", "replica_lost")
AGAIN = ("holdfast_retries", "digits@v2", "")


def test_only_what_tells_of_attempts_and_fallbacks_is_read() -> None:
    assert counters(METRICS) == {OK: 100, LOST: 3, AGAIN: 2}


def test_what_was_counted_in_between_counts_also_after_a_restart() -> None:
    assert grown({OK: 90, LOST: 3}, {OK: 100, LOST: 3, AGAIN: 2}) == {OK: 10, AGAIN: 2}
    assert grown({OK: 90}, {OK: 7}) == {OK: 7}


def test_versions_whose_attempts_all_went_well_need_no_line() -> None:
    assert described({OK: 10}) == []
    assert described({OK: 10, LOST: 2, AGAIN: 1}) == [
        "attempts at digits@v2: 10 ok, 2 replica_lost; 1 of them were further ones"
    ]


def test_a_fault_that_met_nobody_is_no_proof() -> None:
    assert missing({OK: 10, LOST: 1}, "digits@v2", ["replica_lost", "attempt_timeout"]) is None
    assert missing({OK: 10}, "digits@v2", []) is None
    complaint = missing({OK: 10}, "digits@v2", ["replica_lost", "attempt_timeout"])
    assert complaint == "no attempt ended in replica_lost or attempt_timeout: the fault met nobody"
