"""Breakers, further attempts, ejections, fallbacks. Pure."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import BREAKER, BREAKER_STATE, OF_MODEL, Line, Panel, Row, dashboard, increase, rate

PROTECTION: Final = dashboard(
    "protection",
    "Breakers and fallbacks",
    "What protects requests: breakers, further attempts, ejections, fallbacks.",
    [
        Row(
            "Breakers",
            [
                Panel(
                    "State, the worst of all gateways",
                    [Line(BREAKER_STATE, "{{model}}@{{version}}")],
                    kind="state-timeline",
                    width=16,
                    most=2,
                    names=BREAKER,
                ),
                Panel(
                    "Opened",
                    [
                        Line(
                            increase("holdfast_breaker_opened_total", "model, version"),
                            "{{model}}@{{version}}",
                        )
                    ],
                ),
            ],
        ),
        Row(
            "Attempts",
            [
                Panel(
                    "By how they ended",
                    [Line(rate("holdfast_attempts_total", "version, outcome"), "{{version}} {{outcome}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Further ones",
                    [
                        Line(rate("holdfast_retries_total", "model, version"), "{{model}}@{{version}} retries"),
                        Line(rate("holdfast_hedges_total", "model, version"), "{{model}}@{{version}} hedges"),
                        Line(
                            rate("holdfast_retry_budget_exhausted_total", "model, version"),
                            "{{model}}@{{version}} no budget",
                        ),
                    ],
                    "Without budget: it isn't a blip.",
                    "reqps",
                ),
                Panel(
                    "Ejected replicas",
                    [
                        Line(
                            f"sum by (model, version) (holdfast_ejected_replicas{{{OF_MODEL}}})",
                            "{{model}}@{{version}}",
                        )
                    ],
                    "Summed over gateways.",
                ),
            ],
        ),
        Row(
            "Fallbacks",
            [
                Panel(
                    "Share of degraded answers",
                    [Line(f"job_model:holdfast_degraded:ratio_rate5m{{{OF_MODEL}}}", "{{model}}")],
                    unit="percentunit",
                ),
                Panel(
                    "Degraded answers by reason",
                    [Line(rate("holdfast_degraded_answers_total", "model, reason"), "{{model}}: {{reason}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Fallbacks asked",
                    [
                        Line(
                            rate("holdfast_fallbacks_total", "model, fallback, result"),
                            "{{model}}: {{fallback}} {{result}}",
                        )
                    ],
                    "Unusable: what should stand in can't.",
                    "reqps",
                ),
            ],
        ),
        Row(
            "Replicas",
            [
                Panel(
                    "Replaced, in 15 minutes",
                    [
                        Line(
                            f'holdfast:process_replacements:increase15m{{{OF_MODEL}, kind="replica"}}',
                            "{{model}}@{{version}}",
                        )
                    ],
                ),
                Panel(
                    "Self-tests",
                    [Line(rate("holdfast_golden_checks_total", "version, result"), "{{version}} {{result}}")],
                    "Golden examples, once a second in every replica.",
                ),
                Panel(
                    "Tensor channels",
                    [Line(f"sum by (model, version) (holdfast_live_channels{{{OF_MODEL}}})", "{{model}}@{{version}}")],
                    "Less than gateways x replicas: a replica is down, or the slower Serve handle carries requests.",
                ),
            ],
        ),
    ],
)
