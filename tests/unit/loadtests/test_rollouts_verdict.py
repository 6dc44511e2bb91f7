"""When a scenario of the rollout proofs held, and how the table says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.rollouts.verdict import Outcome, Promise, Row, one_sentence, render, went_well

HELD = Outcome(
    "fails_30",
    Row(requests=2310, degraded=1, p99_s=0.0042),
    [Promise(True, "0 client errors"), Promise(True, "taken back")],
    end="RolledBack",
    reason="12 of 40 first attempts failed",
    taken_back_s=0.231,
    last_answer_s=0.254,
    notes=["canary: 12 of 40"],
)
BROKEN = Outcome("good", None, [Promise(True, "fine"), Promise(False, "it ended as Paused")], end="Paused")


def test_all_promises_must_be_kept_and_there_must_be_some() -> None:
    assert HELD.held
    assert not BROKEN.held
    assert not Outcome("empty", Row(), []).held
    assert went_well([HELD])
    assert not went_well([HELD, BROKEN])
    assert not went_well([])


def test_the_table_has_a_line_for_each_scenario_and_below_it_what_was_promised() -> None:
    lines = render([HELD, BROKEN]).splitlines()
    assert lines[2].split() == [
        "fails_30",
        "2",
        "310",
        "0",
        "0",
        "1",
        "4.2",
        "ms",
        "RolledBack",
        "231",
        "ms",
        "254",
        "ms",
        "held",
    ]
    assert lines[3].split() == ["good", "-", "-", "-", "-", "-", "Paused", "-", "-", "1", "NOT", "held"]
    assert lines[2].index("RolledBack") == lines[3].index("Paused") == lines[0].index("ended as")
    assert lines[5:9] == [
        "fails_30",
        "  reason    12 of 40 first attempts failed",
        "  held      0 client errors",
        "  held      taken back",
    ]
    assert "  seen      canary: 12 of 40" in lines
    assert "  NOT held  it ended as Paused" in lines
    assert lines[-1] == "1 of 2 scenarios held; 3 of 4 promises were kept"


def test_a_canary_that_answered_nothing_after_the_evidence_has_no_time() -> None:
    row = render([replace(HELD, last_answer_s=-0.3)]).splitlines()[2]
    assert row.endswith("231 ms   none later  held")


@pytest.mark.parametrize(
    ("reason", "readable"),
    [
        ("12 of 40 first attempts failed, where 1 % are allowed", True),
        ("", False),
        ("bad", False),
        ("two\nlines that nobody reads", False),
        ("Traceback (most recent call last)", False),
        ("long " * 100, False),
    ],
)
def test_a_reason_is_one_sentence(reason: str, readable: bool) -> None:
    assert one_sentence(reason) is readable
