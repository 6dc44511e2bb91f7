"""The look into PromQL that the tests of rules and dashboards stand on."""

from __future__ import annotations

import pytest

from tests.promql import Matcher, Selector, grouping_labels, selectors


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ("up", ["up"]),
        ("rate(a_total[5m]) > 0.5", ["a_total"]),
        (
            'sum by (model, le) (rate(a_bucket{x="y"}[1h])) / on (job) group_left (b) c:d',
            ["a_bucket", "c:d"],
        ),
        ("histogram_quantile(0.99, a) and b unless on (job) time() - c < 30", ["a", "b", "c"]),
        ("max_over_time(a[5m] offset 1h) == 1 or vector(0)", ["a"]),
        ('a{b="by (c) d{e}", f!~"g|h"}', ["a"]),
        ("1e3 * a > bool 14.4", ["a"]),
    ],
)
def test_metrics_are_found_and_nothing_else(expression: str, metrics: list[str]) -> None:
    assert [selector.metric for selector in selectors(expression)] == metrics


def test_matchers_are_read_with_their_values() -> None:
    [found] = selectors('a{b=~"c|d", e!="", f="g h"}')
    assert found == Selector("a", (Matcher("b", "=~", "c|d"), Matcher("e", "!=", ""), Matcher("f", "=", "g h")))
    assert [matcher.values for matcher in found.matchers] == [["c", "d"], [], []]


def test_labels_of_groupings_are_read() -> None:
    assert grouping_labels("sum by (a, b) (c) unless on (d) e") == {"a", "b", "d"}
