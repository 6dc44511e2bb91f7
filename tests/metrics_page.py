"""What docs/metrics.md says of every metric; a test of its own holds the page against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
OF_TARGETS = frozenset({"job", "instance"})
"""Prometheus puts these on everything that it scrapes."""


class Metric(NamedTuple):
    kind: str
    labels: frozenset[str]


def metrics() -> dict[str, Metric]:
    rows = re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \| \w+ \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    return {name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def series() -> dict[str, frozenset[str]]:
    """Names and labels as Prometheus has them."""
    found = {"up": OF_TARGETS, "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
    for name, metric in metrics().items():
        for suffix in SUFFIXES[metric.kind]:
            found[name + suffix] = metric.labels | OF_TARGETS | ({"le"} if suffix == "_bucket" else set())
    return found
