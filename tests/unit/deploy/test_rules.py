"""Rules and alerts name what there is, are tested firing and silent, and lead to a runbook.

Whether they fire when they should, promtool tests in `make alerts`: it isn't on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
import yaml

from serving.cache.tiers import CacheStats
from serving.metrics import BREAKER_STATES, ProcessKind
from serving.request.failures import FAILURES
from serving.rollout.state import Phase
from tests.promql import Matcher, selectors
from tests.unit.deploy.deployed import PROMETHEUS, RUNBOOKS, alerts, complaints, known_series, labels_of, rules_of

KNOWN = known_series()
EXPRESSIONS = [rule["expr"] for name in ("recording.yml", "alerts.yml") for rule in rules_of(name)]
NAMES = sorted({alert.name for alert in alerts()})
ANSWERS = {"ok", "degraded"}


def matchers_of(label: str) -> Iterator[tuple[str, Matcher]]:
    for expression in EXPRESSIONS:
        for found in selectors(expression):
            yield from ((found.metric, matcher) for matcher in found.matchers if matcher.label == label)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_rule_names_only_metrics_and_labels_that_there_are(expression: str) -> None:
    assert list(complaints(expression, KNOWN)) == []


def test_a_metric_or_label_that_there_is_not_would_be_found() -> None:
    assert list(complaints("rate(holdfast_request_total[5m])", KNOWN)) == ["no metric holdfast_request_total"]
    assert list(complaints('up{model="digits"}', KNOWN)) == ["up has no label model"]
    assert list(complaints("sum by (modell) (holdfast_cache_bytes)", KNOWN)) == ["nothing in it has the label modell"]


def callers_own() -> set[str]:
    """Outcomes of inferences that are their callers' doing, as the table of failures has it."""
    rows = {error.code: row for error, row in FAILURES.items()}
    counted = {"input_quality", "invalid_request", "model_not_found", "payload_too_large"}
    assert all(not (row.counts or row.bad or row.may_fall_back) for code, row in rows.items() if code in counted)
    return counted


def test_every_rule_has_the_same_idea_of_an_error() -> None:
    excluded = {
        matcher.value
        for metric, matcher in matchers_of("outcome")
        if metric == "holdfast_requests_total" and matcher.operator == "!~"
    }
    sets = {frozenset(value.split("|")) - ANSWERS for value in excluded}
    assert sets == {frozenset(callers_own() | {"cancelled"})}


def test_every_other_code_of_an_error_counts_as_one() -> None:
    """A new class of errors has to be thought of here: it is either the caller's, or it counts."""
    codes = {error.code for error in FAILURES}
    theirs = {error.code for error, row in FAILURES.items() if not (row.bad or row.counts or row.may_fall_back)}
    before_or_after = {  # never the outcome of a request for a model; or, the last one, an error whoever is to blame
        *("unknown_route", "method_not_allowed", "unsupported_encoding", "not_authorized", "foreign_origin"),
        *("load_failed", "rollout_not_found", "rollout_refused", "rollouts_unavailable", "no_answer"),
        *("breaker_not_open", "incident_not_found", "incidents_unavailable"),
    }
    assert theirs - before_or_after == callers_own()
    assert before_or_after <= codes


@pytest.mark.parametrize(
    ("label", "known"),
    [
        ("kind", set(get_args(ProcessKind))),
        ("phase", {phase.value for phase in Phase}),
        ("operation", set(CacheStats._fields)),
        ("outcome", {error.code for error in FAILURES} | {"ok", "degraded", "cancelled"}),
    ],
)
def test_values_that_rules_look_for_exist(label: str, known: set[str]) -> None:
    named = {value for _, matcher in matchers_of(label) for value in matcher.values}
    assert named
    assert named <= known


def test_open_and_half_open_breakers_are_those_above_0() -> None:
    assert [name for name, value in BREAKER_STATES.items() if value > 0] == ["half_open", "open"]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert.name}-{alert.labels['severity']}")
def test_an_alert_says_how_bad_what_why_and_where_to_read_on(alert: Any) -> None:
    assert alert.labels["severity"] in ("page", "ticket", "info")
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.annotations["runbook_url"] == f"docs/runbooks/{alert.name}.md"
    assert (RUNBOOKS / f"{alert.name}.md").exists()
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert.annotations.values())))
    assert named <= labels_of(alert.expression, KNOWN)


def rule_tests(name: str) -> list[Mapping[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / "tests" / f"{name}.yml").read_text())
    assert document["rule_files"] == ["../recording.yml", "../alerts.yml"]
    cases: list[Mapping[str, Any]] = document["tests"]
    return cases


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_tested_firing_in_each_severity_and_silent(name: str) -> None:
    fires: set[str] = set()
    silent = False
    for case in rule_tests(name):
        for expected in case["promql_expr_test"]:
            assert f'ALERTS{{alertname="{name}", alertstate="firing"}}' in expected["expr"]
            for sample in expected["exp_samples"]:
                fires |= set(re.findall(r'severity="(\w+)"', sample["labels"]))
            silent = silent or not expected["exp_samples"]
            assert case["name"].startswith("fires: " if expected["exp_samples"] else "silent: ")
    assert fires == {alert.labels["severity"] for alert in alerts() if alert.name == name}
    assert silent


@pytest.mark.parametrize("name", NAMES)
def test_the_series_of_the_tests_are_as_holdfast_gives_them(name: str) -> None:
    for case in rule_tests(name):
        for given in case["input_series"]:
            [found] = selectors(given["series"])
            assert {matcher.label for matcher in found.matchers} == KNOWN[found.metric], given["series"]


def test_no_test_is_of_an_alert_that_is_gone() -> None:
    assert sorted(path.stem for path in (PROMETHEUS / "tests").glob("*")) == NAMES


def test_the_example_configuration_reads_these_rules_and_has_the_job_that_they_name() -> None:
    document = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert document["rule_files"] == ["recording.yml", "alerts.yml"]
    [job] = document["scrape_configs"]
    assert {matcher.value for metric, matcher in matchers_of("job") if metric == "up"} == {job["job_name"]}
    assert job["metrics_path"] == "/metrics"
