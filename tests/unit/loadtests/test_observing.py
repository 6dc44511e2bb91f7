"""The table of what it costs to be watched: medians, and ratios that are formed within a round."""

from __future__ import annotations

from loadtests.observing import table


def test_a_ratio_is_one_rounds_and_the_median_of_all_is_shown() -> None:
    rows = {1: [(100.0, 104.0), (200.0, 202.0), (50.0, 60.0)], 32: [(10.0, 10.0)]}
    assert table(rows).splitlines()[2:] == [
        "| 1 | 100.0 | 104.0 | 1.040 (1.010-1.200) |",
        "| 32 | 10.0 | 10.0 | 1.000 (1.000-1.000) |",
    ]
