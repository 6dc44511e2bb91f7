"""What the trial of alerts decides by itself: quicker rules, filled queries, and the table."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.alerts import chaos, cli, files
from loadtests.alerts.judging import Expected, Fired, by_severity, judge, table
from loadtests.alerts.queries import Query, queries_of
from loadtests.alerts.rules import milliseconds, quicker
from loadtests.chaos import library


def rule(expression: str, **more: str) -> dict[str, Any]:
    return {"groups": [{"name": "g", "rules": [{"expr": expression, **more}]}]}


def changed(expression: str, **more: str) -> dict[str, Any]:
    found: dict[str, Any] = quicker(rule(expression, **more), factor=60, window_min_ms=4000)["groups"][0]["rules"][0]
    return found


@pytest.mark.parametrize(
    ("expression", "quick"),
    [
        ("rate(a[1h])", "rate(a[60000ms])"),
        ("rate(a[5m]) > 14.4", "rate(a[5000ms]) > 14.4"),
        ("delta(a[30s])", "delta(a[4000ms])"),
        ("max_over_time(a[5m] offset 1h)", "max_over_time(a[5000ms] offset 60000ms)"),
        ("a:b:rate5m > 0 and time() - c < 30", "a:b:rate5m > 0 and time() - c < 30"),
        ('a{b="[5m]x"}', 'a{b="[5000ms]x"}'),
    ],
)
def test_windows_and_offsets_get_shorter_and_nothing_else(expression: str, quick: str) -> None:
    assert changed(expression)["expr"] == quick


def test_what_has_to_hold_for_a_time_has_to_for_less() -> None:
    assert changed("a", **{"for": "30m"})["for"] == "30000ms"


def test_the_rules_themselves_stay_as_they_are() -> None:
    before = rule("rate(a[1h])")
    quicker(before, factor=60, window_min_ms=4000)
    assert before == rule("rate(a[1h])")


def test_every_rule_there_is_can_be_made_quicker() -> None:
    for name in files.RULES:
        quick = quicker(files.rules(name), factor=60, window_min_ms=4000)
        text = str(quick)
        assert "[1h]" not in text
        assert "[5m]" not in text


@pytest.mark.parametrize(("text", "ms"), [("250ms", 250), ("5m", 300_000), ("3d", 259_200_000)])
def test_durations_are_read(text: str, ms: int) -> None:
    assert milliseconds(text) == ms


def test_what_is_no_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="no duration"):
        milliseconds("5")


def test_a_query_is_filled_in_as_grafana_would() -> None:
    assert Query("p", 'rate(a{model=~"$model"}[$__rate_interval])').filled == 'rate(a{model=~".+"}[30s])'
    with pytest.raises(ValueError, match="unknown variable"):
        _ = Query("p", "a[$what]").filled


def test_the_queries_of_a_dashboard_are_those_of_its_panels_and_variables() -> None:
    variable = {"name": "m", "type": "query", "query": 'label_values(a{b=~"c, d"}, model)'}
    document = {
        "templating": {"list": [{"name": "d", "type": "datasource"}, variable]},
        "panels": [{"title": "row"}, {"title": "p", "targets": [{"expr": "x"}, {"expr": "y"}]}],
    }
    assert list(queries_of(document)) == [
        Query("variable m", 'a{b=~"c, d"}', "model"),
        Query("p", "x"),
        Query("p", "y"),
    ]


DOWN = Fired(9.0, "HoldfastDown", "page")


def test_the_alert_that_should_fire_and_no_other_is_as_it_should_be() -> None:
    assert judge("s", Expected(must=("HoldfastDown",)), [DOWN], calm_s=4).complaint == ""
    assert judge("s", Expected(may=("HoldfastDown",)), [], calm_s=4).complaint == ""


def test_silence_false_alarms_and_alarms_in_calm_are_told() -> None:
    assert judge("s", Expected(must=("HoldfastDown",)), [], calm_s=4).complaint == "HoldfastDown is silent"
    assert judge("s", Expected(), [DOWN], calm_s=4).complaint == "HoldfastDown is a false alarm"
    calm = judge("s", Expected(may=("HoldfastDown",)), [DOWN], calm_s=10)
    assert calm.complaint == "HoldfastDown fires in calm"


def test_what_fired_before_the_load_began_is_of_another_try() -> None:
    assert judge("s", Expected(), [Fired(-1.0, "HoldfastDown", "page")], calm_s=4).complaint == ""


def test_the_table_has_a_line_for_each_scenario() -> None:
    lines = [
        judge("a", Expected(must=("HoldfastDown",), may=("HoldfastShedding",)), [DOWN], calm_s=4),
        judge("b", Expected(), [DOWN], calm_s=4),
    ]
    assert table(lines).splitlines() == [
        "| scenario | should fire | fired | in calm | verdict |",
        "| --- | --- | --- | --- | --- |",
        "| a | Down, (Shedding) | Down | - | held |",
        "| b | - | Down | - | NOT held: HoldfastDown is a false alarm |",
        "",
        "1 of 2 scenarios held",
    ]


def test_the_worst_severity_and_the_first_moment_of_each_are_told() -> None:
    seen = [Fired(5.0, "A", "ticket"), Fired(7.0, "A", "page"), Fired(8.0, "A", "ticket")]
    assert by_severity(seen) == {"A": (5.0, "page")}


def test_alerts_are_expected_of_every_scenario_but_the_drawn_one_and_exist() -> None:
    expected = chaos.expected()
    assert expected.keys() - {"calm"} == set(library.names()) - {"random", "soak"}
    known = {each["alert"] for group in files.rules("alerts.yml")["groups"] for each in group["rules"]}
    named = {name for one in expected.values() for name in (*one.must, *one.may)}
    assert named <= known


def test_in_calm_nothing_may_fire() -> None:
    assert chaos.expected()["calm"] == Expected()
    [calm, failing] = chaos.chosen("calm,primary_failing")
    assert (calm.name, calm.faults, failing.name) == ("calm", [], "primary_failing")


def test_without_a_command_rules_and_dashboards_are_tried() -> None:
    assert cli.parser().parse_args([]).command == "all"
