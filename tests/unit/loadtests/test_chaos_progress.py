"""How long it still takes, as people are told."""

from __future__ import annotations

from loadtests.chaos import progress


def test_before_anything_is_known_experience_tells() -> None:
    assert progress.at_first([30.0] * 40) == "40 scenarios, about 30 min"


def test_later_its_own_pace_tells_and_at_the_end_nothing_has_to_be_told() -> None:
    assert progress.left(200, 100, 400) == ", about 10 min left"
    assert progress.left(20, 20, 60) == ", about 40 s left"
    assert progress.left(500, 400, 400) == progress.left(5, 0, 400) == ""
