"""How long it still takes, as people are told."""

from __future__ import annotations

from loadtests.chaos import progress


def test_before_anything_is_known_experience_tells() -> None:
    assert progress.at_first([30.0] * 40) == "40 scenarios, about 30 min"


def test_the_longer_it_plays_the_more_its_own_pace_tells() -> None:
    assert progress.left(100, 20, 620) == ", about 17 min left"
    assert progress.left(3000, 1000, 1600) == ", about 27 min left"
    assert progress.left(1000, 1000, 1040) == ", about 40 s left"


def test_at_the_end_nothing_has_to_be_told() -> None:
    assert progress.left(500, 400, 400) == progress.left(5, 0, 400) == ""
