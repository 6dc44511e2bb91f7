"""When a scenario of the resilience run held, and how its table says so."""

from __future__ import annotations

import math

import pytest

from loadtests.resilience.figures import Check, Figures, Kind
from loadtests.resilience.table import duration, render, went_well
from loadtests.resilience.verdict import Demands, Result, complaints


def seen(recoveries_s: list[float | None] | None = None, notes: dict[str, int] | None = None, **kinds: int) -> Figures:
    counts = {Kind(name): count for name, count in kinds.items()}
    return Figures(
        requests=sum(counts.values()),
        kinds=counts,
        notes=notes or {},
        calm_p50_s=0.002,
        calm_p99_s=0.004,
        fault_p50_s=0.003,
        fault_p99_s=0.25,
        recoveries_s=recoveries_s if recoveries_s is not None else [0.5],
    )


def test_good_answers_and_a_recovery_hold() -> None:
    assert complaints(seen(ok=100), Demands(recover_within_s=1.0)) == []


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"wrong": 2}, "2 wrong answers"),
        ({"unmarked": 3}, "3 degraded answers without a mark"),
        ({"lost": 1}, "1 without any answer"),
    ],
)
def test_nothing_excuses_wrong_unmarked_and_missing_answers(kinds: dict[str, int], said: str) -> None:
    assert complaints(seen(None, None, ok=100, **kinds), Demands(client_errors=True)) == [said]


def test_client_errors_are_only_fine_where_they_are_expected() -> None:
    figures = seen(ok=100, failed=3, notes={"failed 503": 2, "failed 504": 1, "degraded cache": 7})
    assert complaints(figures, Demands()) == ["3 client errors (2 failed 503, 1 failed 504)"]
    assert complaints(figures, Demands(client_errors=True)) == []


def test_a_fault_that_should_degrade_answers_and_does_not_proves_nothing() -> None:
    assert complaints(seen(ok=100), Demands(degraded_at_least=1)) == ["0 degraded answers: the fault can't have worked"]
    assert complaints(seen(ok=99, degraded=1), Demands(degraded_at_least=1)) == []


def test_fallbacks_may_not_do_the_work_of_other_replicas() -> None:
    assert complaints(seen(ok=98, degraded=2), Demands(degraded_share=0.02)) == []
    assert complaints(seen(ok=97, degraded=3), Demands(degraded_share=0.02)) == ["3 degraded answers, more than 2%"]


@pytest.mark.parametrize(
    ("recoveries", "said"),
    [
        ([0.0, 2.5], ["recovered only after 2.5 s, not within 2 s"]),
        ([0.1, None, None], ["not back to normal after 2 of 3 faults"]),
        ([], ["no fault happened"]),
        ([2.0], []),
    ],
)
def test_every_fault_is_to_be_overcome_in_time(recoveries: list[float | None], said: list[str]) -> None:
    assert complaints(seen(recoveries, ok=9), Demands(recover_within_s=2.0)) == said


def test_what_else_was_checked_is_said_if_it_did_not_hold() -> None:
    assert complaints(seen(ok=1), Demands(), [Check(True, "fine"), Check(False, "too much memory")]) == [
        "too much memory"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0042, "4.2 ms"), (0.0996, "100 ms"), (1.25, "1250 ms"), (12.04, "12.0 s"), (math.nan, "-")],
)
def test_durations_have_the_unit_that_reads_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_table_has_a_line_for_each_scenario_that_lines_up() -> None:
    results = [
        Result("short", seen([0.0], ok=12_000), []),
        Result("a_longer_name", seen([1.26], ok=90, degraded=7, failed=2, lost=1), ["3 client errors"], ["seen: much"]),
        Result("broken", None, ["it didn't start"]),
    ]
    head, rule, *lines = render(results).splitlines()
    assert head.split() == [
        "scenario",
        "requests",
        "failed",
        "wrong",
        "degraded",
        "p99",
        "calm",
        "->",
        "fault",
        "recovery",
        "verdict",
    ]
    assert set(rule) == {"─", " "}
    short, longer, broken, _, note, _, summary = lines
    assert short.split()[:5] == ["short", "12", "000", "0", "0"]
    assert short.endswith("not felt  held")
    assert "4.0 ms ->  250 ms" in longer
    assert longer.endswith("1.3 s  NOT held: 3 client errors")
    assert longer.index("NOT held") == short.index("held") == broken.index("NOT held")
    assert note == "a_longer_name  seen: much"
    assert summary == "1 of 3 held"


def test_all_must_hold_or_without_a_protection_none() -> None:
    held, failed = Result("one", seen(ok=1), []), Result("two", seen(ok=1), ["why"])
    assert went_well([held])
    assert not went_well([held, failed])
    assert not went_well([])
    assert went_well([failed], should_fail=True)
    assert not went_well([held, failed], should_fail=True)
    table = render([held, failed], should_fail=True)
    assert "HELD, though it shouldn't" in table
    assert "fails as it should: why" in table
    assert table.endswith("1 of 2 checks failed, as they should without the protection")
