"""What `deploy/` holds, read for the tests beside this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.metrics_page import series
from tests.promql import grouping_labels, selectors

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"


class Alert(NamedTuple):
    name: str
    expression: str
    labels: dict[str, str]
    annotations: dict[str, str]


def rules_of(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerts() -> list[Alert]:
    return [Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"]) for rule in rules_of("alerts.yml")]


def known_series() -> dict[str, frozenset[str]]:
    """Names with labels: of metrics, and of what recording rules make of them."""
    known = dict(series())
    for rule in rules_of("recording.yml"):
        known[rule["record"]] = labels_of(rule["expr"], known)
    return known


def labels_of(expression: str, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """Those that the result of an expression may have; what it is grouped by, if it is."""
    of_metrics = frozenset(label for found in selectors(expression) for label in known[found.metric])
    grouped = grouping_labels(expression)
    return frozenset(grouped & of_metrics) if grouped else of_metrics


def complaints(expression: str, known: dict[str, frozenset[str]]) -> Iterator[str]:
    """Metrics that there aren't, and labels that they don't have."""
    for found in selectors(expression):
        if found.metric not in known:
            yield f"no metric {found.metric}"
            continue
        for matcher in found.matchers:
            if matcher.label not in known[found.metric]:
                yield f"{found.metric} has no label {matcher.label}"
    names = [found.metric for found in selectors(expression) if found.metric in known]
    for label in sorted(grouping_labels(expression) - {label for name in names for label in known[name]}):
        yield f"nothing in it has the label {label}"
