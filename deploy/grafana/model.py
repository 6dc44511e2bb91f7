"""One model: latency, errors, saturation, queues. Pure."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import (
    DURATION,
    EXCEPT_OK,
    OF_JOB,
    OF_MODEL,
    REQUESTS,
    Line,
    Panel,
    Row,
    dashboard,
    quantile,
    rate,
)

MODEL: Final = dashboard(
    "model",
    "Model",
    "One model: latency, errors, saturation, queues. By default all are shown; choose one above.",
    [
        Row(
            "Latency",
            [
                Panel(
                    "Requests, from arrival to answer",
                    [Line(quantile(q, DURATION, "model"), f"p{q * 100:g} {{{{model}}}}") for q in (0.5, 0.9, 0.99)],
                    unit="s",
                ),
                Panel(
                    "One run of the model",
                    [
                        Line(
                            quantile(q, "holdfast_model_compute_seconds", "model, version"),
                            f"p{q * 100:g} {{{{version}}}}",
                        )
                        for q in (0.5, 0.99)
                    ],
                    "If this grows with the requests' latency it is the model, else the waiting.",
                    "s",
                ),
                Panel(
                    "Rows in one run",
                    [
                        Line(
                            rate("holdfast_model_batch_rows_sum", "model, version")
                            + " / "
                            + rate("holdfast_model_batch_rows_count", "model, version"),
                            "{{model}}@{{version}}",
                        )
                    ],
                    "Requests that share a run, on average.",
                ),
            ],
        ),
        Row(
            "Errors",
            [
                Panel(
                    "Errors",
                    [Line(f"job_model:holdfast_errors:ratio_rate5m{{{OF_MODEL}}}", "{{model}}")],
                    "After all attempts and fallbacks: what clients see.",
                    "percentunit",
                ),
                Panel(
                    "Outcomes by version",
                    [Line(rate(REQUESTS, "version, outcome"), "{{version}} {{outcome}}")],
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Attempts that failed",
                    [
                        Line(
                            rate("holdfast_attempts_total", "version, outcome", more=EXCEPT_OK),
                            "{{version}} {{outcome}}",
                        )
                    ],
                    "What clients would see without protection.",
                    "reqps",
                ),
            ],
        ),
        Row(
            "Saturation",
            [
                Panel(
                    "Let in",
                    [
                        Line(
                            f"sum by (model) (holdfast_admission_inflight_requests{{{OF_MODEL}}})",
                            "{{model}} in flight",
                        ),
                        Line(f"sum by (model) (holdfast_admission_limit{{{OF_MODEL}}})", "{{model}} limit"),
                    ],
                    "Standing at the limit: the model is saturated.",
                ),
                Panel(
                    "Batches that replicas work on",
                    [
                        Line(
                            f"sum by (model, version) (holdfast_lane_inflight_batches{{{OF_MODEL}}})",
                            "{{model}}@{{version}}",
                        )
                    ],
                ),
                Panel(
                    "Replicas",
                    [
                        Line(
                            f'sum by (model, version) (holdfast_processes{{{OF_MODEL}, kind="replica"}})',
                            "{{model}}@{{version}}",
                        )
                    ],
                ),
            ],
        ),
        Row(
            "Queues",
            [
                Panel(
                    "Waiting to be let in",
                    [
                        Line(
                            f"sum by (model, priority) (holdfast_admission_waiting_requests{{{OF_MODEL}}})",
                            "{{model}} priority {{priority}}",
                        )
                    ],
                ),
                Panel(
                    "Waiting for a replica",
                    [
                        Line(
                            f"sum by (model, version) (holdfast_lane_waiting_requests{{{OF_MODEL}}})",
                            "{{model}}@{{version}}",
                        )
                    ],
                ),
                Panel(
                    "Shed",
                    [Line(rate("holdfast_shed_requests_total", "model, priority"), "{{model}} priority {{priority}}")],
                    "Answered 429, or by a fallback with time to spare.",
                    "reqps",
                ),
            ],
        ),
        Row(
            "Inputs and incidents",
            [
                Panel(
                    "Values that the model wasn't made for",
                    [
                        Line(
                            rate("holdfast_input_quality_violations_total", "model, feature, kind"),
                            "{{model}} {{feature}} {{kind}}",
                        )
                    ],
                    "Missing, or out of the manifest's ranges: a client, or the world, has changed.",
                ),
                Panel(
                    "Incidents that were kept",
                    [Line(rate("holdfast_incidents_kept_total", "model, failure"), "{{model}} {{failure}}")],
                    "By what went wrong; at most so many a second of each kind.",
                ),
                Panel(
                    "Incidents that weren't",
                    [
                        Line(rate("holdfast_incidents_dropped_total", "reason", of=OF_JOB), "{{reason}}"),
                    ],
                    "unwritten: the store can't be written. The others are bounds that were reached.",
                ),
            ],
        ),
    ],
)
