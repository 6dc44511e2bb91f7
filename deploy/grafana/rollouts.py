"""Where a canary stands, and what is left of the error budget. Pure."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import BURN, EXCEPT_OK, OF_JOB, OF_MODEL, Line, Panel, Row, dashboard, rate

NO_YES: Final = ((0, "no", "red"), (1, "yes", "green"))
PHASES: Final = f"max by (model, version, phase) (holdfast_rollout_phase{{{OF_MODEL}}}) == 1"

ROLLOUTS: Final = dashboard(
    "rollouts",
    "Rollouts and error budget",
    "Where a canary stands, what speaks against it, and how much of the budget is used up.",
    [
        Row(
            "Rollout",
            [
                Panel(
                    "Phase", [Line(PHASES, "{{model}}@{{version}} {{phase}}")], kind="state-timeline", width=12, most=1
                ),
                Panel(
                    "Share of the canary",
                    [Line(f"max by (model, version) (holdfast_canary_weight{{{OF_MODEL}}})", "{{model}}@{{version}}")],
                    unit="percentunit",
                    width=12,
                    most=1,
                ),
                Panel(
                    "Evidence against it",
                    [Line(f"holdfast_rollout_evidence_ratio{{{OF_MODEL}}}", "{{model}}")],
                    "On a logarithmic scale: 0 says nothing, 1 is enough to take it back.",
                    "percentunit",
                    thresholds=(0.5, 1),
                ),
                Panel(
                    "Left of the canary's error budget",
                    [Line(f"holdfast_rollout_budget_left_ratio{{{OF_MODEL}}}", "{{model}}")],
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Bad first attempts",
                    [
                        Line(
                            rate("holdfast_canary_attempts_total", "model, version", more=EXCEPT_OK)
                            + " / "
                            + rate("holdfast_canary_attempts_total", "model, version"),
                            "{{model}}@{{version}}",
                        )
                    ],
                    "Canary and stable version at the same time.",
                    "percentunit",
                ),
                Panel(
                    "First attempts",
                    [Line(rate("holdfast_canary_attempts_total", "version, outcome"), "{{version}} {{outcome}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Step",
                    [Line(f"holdfast_rollout_step{{{OF_MODEL}}}", "{{model}}")],
                    "Steps that were begun.",
                    width=8,
                ),
                Panel(
                    "The latest rollback took",
                    [Line(f"holdfast_rollout_rollback_seconds{{{OF_MODEL}}}", "{{model}}")],
                    "From the evidence to the last gateway.",
                    "s",
                    "stat",
                    8,
                    8,
                    thresholds=(1, 2),
                ),
            ],
        ),
        Row(
            "Controller",
            [
                Panel(
                    "Writes the event log",
                    [Line(f"holdfast_event_log_writable{{{OF_JOB}}}", "{{instance}}")],
                    kind="state-timeline",
                    height=6,
                    most=1,
                    names=NO_YES,
                ),
                Panel("Events", [Line(f"holdfast_event_log_events{{{OF_JOB}}}", "{{instance}}")], height=6),
                Panel(
                    "Last seen",
                    [Line(f"time() - holdfast_controller_alive_timestamp_seconds{{{OF_JOB}}}", "{{instance}}")],
                    unit="s",
                    height=6,
                ),
            ],
        ),
        Row(
            "Error budget of the models",
            [
                Panel(
                    "Burn, over an hour and over five minutes",
                    [Line(f"{BURN}{w}{{{OF_MODEL}}}", f"{{{{model}}}} {w}") for w in ("1h", "5m")],
                    "Both over 14.4: a page.",
                    thresholds=(1, 14.4),
                ),
                Panel(
                    "Burn, over six hours and over half of one",
                    [Line(f"{BURN}{w}{{{OF_MODEL}}}", f"{{{{model}}}} {w}") for w in ("6h", "30m")],
                    "Both over 6: a page.",
                    thresholds=(1, 6),
                ),
                Panel(
                    "Burn, over three days and over six hours",
                    [Line(f"{BURN}{w}{{{OF_MODEL}}}", f"{{{{model}}}} {w}") for w in ("3d", "6h")],
                    "Both over 1: a ticket.",
                    thresholds=(1, 6),
                ),
            ],
        ),
    ],
)
