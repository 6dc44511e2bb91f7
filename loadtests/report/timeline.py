"""All panels one below the other on one time axis, and the values that a pointer calls up. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from loadtests.report import faults, panels, texts, watched
from loadtests.report.bins import Binned, at, worst
from loadtests.report.figures import Figures, outcomes
from loadtests.report.markup import Markup, tag
from loadtests.report.paper import Panel, Paper, place, time_axis
from loadtests.report.record import Record


def draw(record: Record, figures: Figures, binned: Binned, paper: Paper) -> Markup:
    """The drawing. It says everything without a script; the script only adds the pointer's line and values."""
    top = 18.0
    head: list[Markup] = []
    title = texts.some(len(record.faults), "fault") if record.faults else "No faults"
    head.append(tag("text", tag("tspan", title, class_="title"), x=2.0 if paper.narrow else paper.left, y=13.0))
    marks, y = faults.track(record.faults, paper, top + 4)
    bands_top = y - 6
    axis = time_axis(paper, y - 4, title=False)
    y += 20
    body: list[Markup] = []
    for panel in _panels(record, figures, binned, paper):
        drawn, y = place(panel, paper, y)
        body.append(drawn)
        y += 12
    bottom = y - 12
    cursor = tag("line", class_="cursor", x1=0.0, x2=0.0, y1=bands_top, y2=bottom)
    return tag(
        "svg",
        tag("title", "Timeline of the run"),
        faults.bands(record.faults, paper, bands_top, bottom),
        head,
        marks,
        axis,
        body,
        faults.moments(record.faults, paper, bands_top, bottom),
        time_axis(paper, bottom, title=True),
        cursor,
        class_="timeline phone" if paper.narrow else "timeline wide",
        viewBox=f"0 0 {paper.width:g} {bottom + 40:.0f}",
        role="img",
        font_size=paper.size,
        data_left=paper.left,
        data_right=paper.edge,
        tabindex=0,
    )


def _panels(record: Record, figures: Figures, binned: Binned, paper: Paper) -> list[Panel]:
    found: list[Panel] = []
    if record.samples:
        found += [kind(binned, figures, paper) for kind in (panels.throughput, panels.latency, panels.trouble)]
        found.append(panels.degraded(binned, figures, paper))
    return found + [watched.panel(subject, paper) for subject in watched.subjects(record.series)]


def values(record: Record, figures: Figures, binned: Binned) -> dict[str, Any]:
    """For each panel its rows: a label, a colour, a unit, and a value for each bin (null if unknown)."""
    numbers = range(len(binned.bins))
    groups: list[dict[str, Any]] = []
    if record.samples:
        rates = [
            _row(name, f"o-{name}", "/s", [binned.rate(number, name) for number in numbers])
            for name, _ in reversed(outcomes(figures.counts))
        ]
        groups.append({"title": "Requests per second", "rows": rates})
        ms = [_row(name, f"l-{name}", "ms", binned.quantiles(q)) for name, q in (("p50", 0.5), ("p99", 0.99))]
        share = [100 * each.degraded_share for each in binned.bins]
        groups.append({"title": "Latency", "rows": ms})
        groups.append({"title": "Degraded answers", "rows": [_row("share", "o-degraded", "%", share)]})
    groups += [_watched(subject, binned) for subject in watched.subjects(record.series)]
    active = [_active(record, binned.start(number), binned.end(number)) for number in numbers]
    names = sorted({name for each in active for name in each})
    return {
        "step": binned.step_s,
        "seconds": round(binned.seconds, 3),
        "groups": groups,
        "faultNames": names,
        "faults": [[names.index(name) for name in each] for each in active],
    }


def _watched(subject: watched.Subject, binned: Binned) -> dict[str, Any]:
    rows = []
    for place_, series in enumerate(watched.shown(subject)):
        spans = [(binned.start(number), binned.end(number)) for number in range(len(binned.bins))]
        if subject.key == "breaker":
            rows.append(_row(series.label, "state", "state", [worst(series, *span) for span in spans]))
        else:
            rows.append(_row(series.label, f"c-{place_}", series.unit, [at(series, end) for _, end in spans]))
    return {"title": subject.title, "rows": rows}


def _row(label: str, class_: str, unit: str, found: Sequence[float]) -> dict[str, Any]:
    return {"label": label, "class": class_, "unit": unit, "values": [_rounded(value) for value in found]}


def _rounded(value: float) -> float | int | None:
    if math.isnan(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short


def _active(record: Record, start: float, end: float) -> list[str]:
    """Faults that happened or were at work in the bin, a few of them."""
    names = (
        faults.by_target(fault)
        for fault in record.faults
        if fault.at_s < end and (fault.at_s if fault.until_s is None else fault.until_s) >= start
    )
    return list(dict.fromkeys(names))[:4]
