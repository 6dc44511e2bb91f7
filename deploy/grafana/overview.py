"""Is it fine, and if not, where to look. Pure."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import (
    BREAKER,
    BREAKER_STATE,
    BURN,
    DURATION,
    EXCEPT_OK,
    OF_JOB,
    OF_MODEL,
    REQUESTS,
    Line,
    Panel,
    Row,
    at_least,
    dashboard,
    quantile,
    rate,
)

OVERVIEW: Final = dashboard(
    "overview",
    "Overview",
    "Is it fine, and if not, where to look.",
    [
        Row(
            "Now",
            [
                Panel(
                    "Alerts that fire",
                    [Line(at_least('count(ALERTS{alertname=~"Holdfast.+", alertstate="firing"})'))],
                    kind="stat",
                    width=4,
                    height=4,
                    thresholds=(1, 3),
                ),
                Panel(
                    "Errors, 5 minutes",
                    [Line(f"max(job_model:holdfast_errors:ratio_rate5m{{{OF_MODEL}}})")],
                    "Of the model that does worst.",
                    "percentunit",
                    "stat",
                    4,
                    4,
                    thresholds=(0.001, 0.0144),
                ),
                Panel(
                    "Degraded, 5 minutes",
                    [Line(f"max(job_model:holdfast_degraded:ratio_rate5m{{{OF_MODEL}}})")],
                    "Of the model that does worst.",
                    "percentunit",
                    "stat",
                    4,
                    4,
                    thresholds=(0.01, 0.25),
                ),
                Panel(
                    "Breakers not closed",
                    [Line(at_least(f"count({BREAKER_STATE} > 0)"))],
                    kind="stat",
                    width=4,
                    height=4,
                    thresholds=(1, 2),
                ),
                Panel(
                    "Gateways",
                    [Line(f'sum(holdfast_processes{{{OF_JOB}, kind="gateway"}})')],
                    kind="stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "Controller last seen",
                    [Line(f"time() - max(holdfast_controller_alive_timestamp_seconds{{{OF_JOB}}})")],
                    "Seconds ago.",
                    "s",
                    "stat",
                    4,
                    4,
                    thresholds=(10, 30),
                ),
            ],
        ),
        Row(
            "What clients see",
            [
                Panel("Requests", [Line(rate(REQUESTS, "model"), "{{model}}")], unit="reqps", stacked=True),
                Panel(
                    "Outcomes other than ok",
                    [Line(rate(REQUESTS, "model, outcome", more=EXCEPT_OK), "{{model}} {{outcome}}")],
                    unit="reqps",
                ),
                Panel("Latency, p99", [Line(quantile(0.99, DURATION, "model"), "{{model}}")], unit="s"),
                Panel(
                    "Error budget burn, 1 hour",
                    [Line(f"{BURN}1h{{{OF_MODEL}}}", "{{model}}")],
                    "At 1 the budget lasts for just its 30 days; 14.4 pages.",
                    thresholds=(1, 14.4),
                ),
                Panel(
                    "Degraded answers by what gave them",
                    [Line(rate("holdfast_degraded_answers_total", "model, by"), "{{model}}: {{by}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Breakers",
                    [Line(BREAKER_STATE, "{{model}}@{{version}}")],
                    kind="state-timeline",
                    most=2,
                    names=BREAKER,
                ),
            ],
        ),
        Row(
            "Processes",
            [
                Panel(
                    "Running", [Line(f"sum by (kind) (holdfast_processes{{{OF_JOB}}})", "{{kind}}")], width=8, height=6
                ),
                Panel(
                    "Died, in 15 minutes",
                    [Line(f"sum by (kind) (holdfast:process_deaths:increase15m{{{OF_JOB}}})", "{{kind}}")],
                    width=8,
                    height=6,
                ),
                Panel(
                    "Generation of the routing table",
                    [Line(f"holdfast_routing_table_generation{{{OF_JOB}}}", "{{instance}}")],
                    "The lowest of all gateways.",
                    width=8,
                    height=6,
                ),
            ],
        ),
    ],
)
