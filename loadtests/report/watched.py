"""The panels that are drawn from series: breakers as strips, all else as lines. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.report import texts
from loadtests.report.bins import stretches, thinned
from loadtests.report.labels import shorten, width
from loadtests.report.markup import Markup, tag
from loadtests.report.paper import Key, Panel, Paper
from loadtests.report.record import Series
from loadtests.report.scales import Linear, ticks, zero_based

STATES = ("closed", "half-open", "open")
STRIPS_MAX, LINES_MAX, PANELS_MAX = 12, 8, 14
POINTS_MAX = 800
_STRIP, _HEIGHT = 15.0, 64.0


@dataclass(frozen=True)
class Subject:
    """Series that belong into one panel."""

    key: str
    title: str
    series: Sequence[Series]


# What names of series mean: the panel, and what to call the line if the panel shows several kinds.
_KNOWN = {
    "breaker": ("breaker", ""),
    "breaker_state": ("breaker", ""),
    "canary_weight": ("weight", ""),
    "weight": ("weight", ""),
    "replicas": ("replicas", ""),
    "replicas_alive": ("replicas", ""),
    "admission_limit": ("admission", "limit"),
    "limit": ("admission", "limit"),
    "in_flight": ("admission", "in flight"),
    "inflight": ("admission", "in flight"),
    "requests_in_flight": ("admission", "in flight"),
    "memory": ("memory", ""),
    "gateway_memory": ("memory", ""),
}
_TITLES = {
    "breaker": "Breakers",
    "weight": "Canary weight",
    "replicas": "Replicas alive",
    "admission": "Requests in flight and their limit",
    "memory": "Memory",
    "memory_by_process": "Memory, the largest process of each kind",
    "handles_by_process": "Open files, the most in a process of each kind",
    "threads_by_process": "Threads, the most in a process of each kind",
    "processes": "Processes of each kind",
    "machine_load": "Load of the machine",
}


def subjects(series: Sequence[Series]) -> list[Subject]:
    """What is known in the order of the page, then the rest in its own."""
    found: dict[str, list[Series]] = {key: [] for key in _TITLES}
    for each in series:
        name = each.name.strip().lower().replace(" ", "_").replace("-", "_")
        key, suffix = _KNOWN.get(name, (each.name, ""))
        label = suffix if suffix and each.label in (each.name, suffix) else f"{each.label} {suffix}".strip()
        found.setdefault(key, []).append(Series(each.name, label, each.unit, each.times, each.values))
    known = [Subject(key, _TITLES.get(key, _capital(key)), each) for key, each in found.items() if each]
    return known[:PANELS_MAX]


def _capital(name: str) -> str:
    return f"{name[:1].upper()}{name[1:]}".replace("_", " ")


def panel(subject: Subject, paper: Paper) -> Panel:
    return strips(subject, paper) if subject.key == "breaker" else lines(subject, paper)


def shown(subject: Subject) -> list[Series]:
    """Those that there is room for: the ones to which the most happened, in their own order."""
    most = STRIPS_MAX if subject.key == "breaker" else LINES_MAX
    numbers = sorted(range(len(subject.series)), key=lambda number: -_moved(subject.series[number]))[:most]
    return [subject.series[number] for number in sorted(numbers)]


def _moved(series: Series) -> float:
    known = [value for value in series.values if not math.isnan(value)]
    return max(known) - min(known)


def _more(subject: Subject, kept: Sequence[Series]) -> str:
    left = len(subject.series) - len(kept)
    return f"{left} more not shown" if left else ""


def state(value: float) -> str:
    return STATES[min(2, max(0, round(value)))]


def strips(subject: Subject, paper: Paper) -> Panel:
    """A strip for each version, in the colour of its breaker's state; the state is written where there is room."""
    kept = shown(subject)
    pitch = _STRIP + (18.0 if paper.narrow else 6.0)
    body: list[Markup] = []
    labels = []
    for number, each in enumerate(kept):
        top = number * pitch + (13.0 if paper.narrow else 2.0)
        if paper.narrow:
            label = shorten(each.label, paper.room, paper.size)
            body.append(tag("text", label, class_="label", x=paper.left, y=top - 4))
        else:
            labels.append(Key(each.label, "", top + _STRIP / 2, swatch=False))
        body.append(
            tag("rect", class_="unknown-strip", x=paper.left + 1, y=top + 1, width=paper.room - 2, height=_STRIP - 2)
        )
        # The worst are drawn last, so that a short opening isn't hidden behind its neighbours.
        for start, end, value in sorted(stretches(each, paper.seconds), key=lambda stretch: stretch[2]):
            body += _stretch(paper, start, end, state(value), top)
    return Panel(
        subject.title,
        _more(subject, kept),
        pitch * len(kept) + 2,
        body,
        labels=[] if paper.narrow else labels,
        legend=[Key(name, f"b-{name}") for name in STATES],
    )


def _stretch(paper: Paper, start: float, end: float, name: str, top: float) -> list[Markup]:
    x, length = paper.x(start), max(2.0, paper.x(end) - paper.x(start))
    title = tag("title", f"{name}, {texts.clock(round(start, 1))} to {texts.clock(round(end, 1))}")
    parts = [tag("g", title, tag("rect", class_=f"b-{name}", x=x, y=top, width=length, height=_STRIP))]
    if name != "closed" and width(name, 10.5) + 6 < length:
        parts.append(tag("text", name, class_=f"state s-{name}", x=x + length / 2, y=top + 11.5, text_anchor="middle"))
    return parts


def lines(subject: Subject, paper: Paper) -> Panel:
    kept = shown(subject)
    unit = next((each.unit for each in kept if each.unit), "")
    known = [value for each in kept for value in each.values if not math.isnan(value)]
    height = _HEIGHT if len(kept) < 5 or paper.narrow else 15.0 * len(kept)
    scale = zero_based(known, start=height, end=0.0, at_least=10.0 if unit == "%" else 1.0)
    body, labels = [], []
    for number, each in enumerate(kept):
        body.append(tag("path", class_=f"line c-{number}", d=_path(each, paper, scale)))
        last = next(value for value in reversed(each.values) if not math.isnan(value))
        label = each.label if len(kept) > 1 else ""
        labels.append(Key(f"{label} {texts.plain(last, each.unit)}".strip(), f"c-{number}", scale(last)))
    note = ", ".join(part for part in (f"in {unit}" if unit else "", _more(subject, kept)) if part)
    return Panel(
        subject.title,
        note,
        height,
        body,
        ticks=[(scale(value), texts.plain(value)) for value in ticks(scale.low, scale.high, at_most=3)],
        labels=labels,
    )


def _path(series: Series, paper: Paper, scale: Linear) -> str:
    """Steps: a value holds until the next one was seen."""
    parts, known = [], False
    for moment, value in thinned(series, at_most=POINTS_MAX):
        if math.isnan(value):
            known = False
            continue
        x, y = f"{paper.x(moment):.1f}", f"{scale(value):.1f}"
        parts.append(f"H{x}V{y}" if known else f"M{x} {y}h0")
        known = True
    return "".join(parts) + (f"H{paper.x(min(paper.seconds, series.times[-1])):.1f}" if known else "")
