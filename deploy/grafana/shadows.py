"""Mirrored traffic, and the cache of predictions. Pure."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import OF_JOB, OF_MODEL, Line, Panel, Row, dashboard, rate

OF_SHADOW: Final = "model, shadow"
CACHED: Final = "holdfast_cache_operations_total"

SHADOWS: Final = dashboard(
    "shadows",
    "Shadows and cache",
    "Mirrored traffic and whether its answers agree; what is kept for the time when nothing else can answer.",
    [
        Row(
            "Shadows",
            [
                Panel(
                    "Mirrored",
                    [Line(rate("holdfast_shadow_mirrored_requests_total", OF_SHADOW), "{{model}} to {{shadow}}")],
                    unit="reqps",
                ),
                Panel(
                    "Rows that agree",
                    [
                        Line(
                            rate("holdfast_shadow_agreed_rows_total", OF_SHADOW)
                            + " / "
                            + rate("holdfast_shadow_compared_rows_total", OF_SHADOW),
                            "{{model}} and {{shadow}}",
                        )
                    ],
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Answers nothing",
                    [Line(f"max by ({OF_SHADOW}) (holdfast_shadow_silent{{{OF_MODEL}}})", "{{shadow}} of {{model}}")],
                    "If so, its agreement says nothing.",
                    kind="state-timeline",
                    most=1,
                    names=((0, "no", "green"), (1, "silent", "red")),
                ),
                Panel(
                    "Dropped and failed",
                    [
                        Line(
                            rate("holdfast_shadow_dropped_requests_total", f"{OF_SHADOW}, reason"),
                            "{{shadow}} {{reason}}",
                        ),
                        Line(
                            rate("holdfast_shadow_failed_requests_total", f"{OF_SHADOW}, reason"),
                            "{{shadow}} {{reason}}",
                        ),
                    ],
                    unit="reqps",
                ),
                Panel(
                    "Disagreements",
                    [
                        Line(
                            rate("holdfast_shadow_disagreements_total", f"{OF_SHADOW}, reason"), "{{shadow}} {{reason}}"
                        )
                    ],
                    unit="reqps",
                ),
                Panel(
                    "Memory that mirrored requests hold",
                    [
                        Line(
                            f"sum by ({OF_SHADOW}) (holdfast_shadow_held_bytes{{{OF_MODEL}}})",
                            "{{shadow}} of {{model}}",
                        )
                    ],
                    unit="bytes",
                ),
            ],
        ),
        Row(
            "Cache",
            [
                Panel("Predictions", [Line(f"max by (instance) (holdfast_cache_entries{{{OF_JOB}}})", "{{instance}}")]),
                Panel(
                    "Size",
                    [Line(f"max by (instance) (holdfast_cache_bytes{{{OF_JOB}}})", "{{instance}}")],
                    unit="bytes",
                ),
                Panel("Operations", [Line(rate(CACHED, "operation", OF_JOB), "{{operation}}")], unit="ops"),
                Panel(
                    "Lost on the way in",
                    [
                        Line(
                            rate(CACHED, "operation", OF_JOB, ', operation=~".*dropped|.*errors"'),
                            "{{operation}}",
                        )
                    ],
                    unit="ops",
                ),
                Panel(
                    "Answers that wait to be written",
                    [Line(f"sum by (instance) (holdfast_cache_waiting_answers{{{OF_JOB}}})", "{{instance}}")],
                ),
                Panel(
                    "Their memory",
                    [Line(f"sum by (instance) (holdfast_cache_waiting_bytes{{{OF_JOB}}})", "{{instance}}")],
                    unit="bytes",
                ),
            ],
        ),
    ],
)
