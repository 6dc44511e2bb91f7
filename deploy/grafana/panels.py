"""What dashboards are made of: rows of panels, and the queries that they share. Pure.

Only panels of Grafana's core. Every dashboard has the same variables: where Prometheus is, the job, the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

COLUMNS: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

OF_MODEL: Final = 'job=~"$job", model=~"$model"'
OF_JOB: Final = 'job=~"$job"'


class Line(NamedTuple):
    """A query of a panel, and what its series are called."""

    query: str
    legend: str = ""


class Panel(NamedTuple):
    """What it shows, in words, and as queries. `thresholds`: from which value on it is yellow, and red."""

    title: str
    lines: Sequence[Line]
    text: str = ""
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    most: float | None = None
    thresholds: tuple[float, float] | None = None
    stacked: bool = False
    names: tuple[tuple[float, str, str], ...] = ()
    """What values are called, and in which colour."""


class Row(NamedTuple):
    title: str
    panels: Sequence[Panel]


def dashboard(uid: str, title: str, text: str, rows: Sequence[Row]) -> dict[str, Any]:
    """A dashboard as Grafana takes it, its panels laid out from left to right."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(_row(len(panels) + 1, row.title, y))
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append(_panel(len(panels) + 1, panel, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return {
        "uid": f"holdfast-{uid}",
        "title": f"Holdfast / {title}",
        "description": text,
        "tags": ["holdfast"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "refresh": "10s",
        "links": [
            {"type": "dashboards", "title": "Holdfast", "tags": ["holdfast"], "asDropdown": True, "keepTime": True}
        ],
        "annotations": {"list": [_rollbacks()]},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
        _values("job", "Job", "label_values(holdfast_routing_table_generation, job)"),
        _values("model", "Model", 'label_values(holdfast_admission_limit{job=~"$job"}, model)'),
    ]


def _values(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _rollbacks() -> dict[str, Any]:
    """A mark wherever a version was rolled back."""
    return {
        "name": "Rollbacks",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'max by (model, version) (holdfast_rollout_phase{{{OF_JOB}, phase="RollingBack"}}) == 1',
        "titleFormat": "rolled back",
        "textFormat": "{{model}}@{{version}}",
    }


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "targets": [_target(letter, line, panel) for letter, line in zip("ABCDEFGH", panel.lines, strict=False)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _target(letter: str, line: Line, panel: Panel) -> dict[str, Any]:
    target = {"refId": letter, "datasource": SOURCE, "expr": line.query, "legendFormat": line.legend or "__auto"}
    return target | ({"instant": True, "range": False} if panel.kind == "stat" else {"instant": False, "range": True})


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        found["max"] = panel.most
    if panel.kind == "timeseries":
        found["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    elif panel.kind == "state-timeline":
        found["custom"] = {"lineWidth": 0, "fillOpacity": 80}
    if panel.thresholds is not None:
        yellow, red = panel.thresholds
        steps = [("green", None), ("yellow", yellow), ("red", red)]
        found["thresholds"] = {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in steps]}
        found["color"] = {"mode": "thresholds"} if panel.kind == "stat" else {"mode": "palette-classic"}
    if panel.names:
        options = {f"{value:g}": {"text": text, "color": colour} for value, text, colour in panel.names}
        found["mappings"] = [{"type": "value", "options": options}]
    return found


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background"}
    if panel.kind == "state-timeline":
        return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8, "legend": {"showLegend": False}}
    legend = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def rate(counter: str, by: str, of: str = OF_MODEL, more: str = "") -> str:
    """A counter's growth a second."""
    return f"sum by ({by}) (rate({counter}{{{of}{more}}}[$__rate_interval]))"


def increase(counter: str, by: str) -> str:
    """A counter's growth in the time that a point of the plot stands for."""
    return f"sum by ({by}) (increase({counter}{{{OF_MODEL}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share:g}, sum by ({by}, le) (rate({metric}_bucket{{{OF_MODEL}}}[$__rate_interval])))"


def at_least(query: str) -> str:
    """0 where there is nothing, so that a panel for people says so."""
    return f"{query} or vector(0)"


# What several dashboards show.
BREAKER: Final = ((0, "closed", "green"), (1, "half-open", "yellow"), (2, "open", "red"))
BREAKER_STATE: Final = f"max by (model, version) (holdfast_breaker_state{{{OF_MODEL}}})"
BURN: Final = "job_model:holdfast_error_budget_burn:rate"
DURATION: Final = "holdfast_request_duration_seconds"
EXCEPT_OK: Final = ', outcome!="ok"'
REQUESTS: Final = "holdfast_requests_total"
