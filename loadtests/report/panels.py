"""The panels that are drawn from requests. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from loadtests.report import texts
from loadtests.report.bins import Binned
from loadtests.report.figures import CALM, Figures, outcomes
from loadtests.report.labels import clusters, width
from loadtests.report.markup import Markup, tag
from loadtests.report.paper import Key, Panel, Paper
from loadtests.report.scales import Linear, Log, ticks, whole_decades, zero_based

MARKS = {"error": "\u25b2", "wrong": "\u2716"}
_LANE = 24.0


def of_each(binned: Binned) -> str:
    """What a bin is, in words."""
    return "each second" if binned.step_s == 1 else f"each {binned.step_s:g} s"


def throughput(binned: Binned, figures: Figures, paper: Paper) -> Panel:
    """Requests a second by what became of them, one upon the other."""
    height = 120.0 if paper.narrow else 140.0
    occurred = outcomes(figures.counts)
    names = [name for name, _ in occurred]
    numbers = range(len(binned.bins))
    scale = zero_based((binned.rate(number, *names) for number in numbers), start=height, end=0.0)
    body, below = [], [0.0] * len(binned.bins)
    for name in names:
        above = [low + binned.rate(number, name) for number, low in enumerate(below)]
        body.append(tag("path", class_=f"area o-{name}", d=_steps(binned, paper, scale, below, above)))
        below = above
    listed = reversed(occurred)
    labels = [
        Key(f"{name} {texts.count(number)}", f"o-{name}", 5.0 + 16 * place)
        for place, (name, number) in enumerate(listed)
    ]
    return Panel(
        "Requests per second",
        f"by outcome, in {of_each(binned)} in which they were due",
        height,
        body,
        ticks=[(scale(value), texts.plain(value)) for value in ticks(0, scale.high, at_most=4)],
        labels=labels,
    )


def _steps(binned: Binned, paper: Paper, scale: Linear, below: Sequence[float], above: Sequence[float]) -> str:
    """Outlines of all stretches in which there is something between below and above."""
    parts = []
    for run in _runs(high > low for low, high in zip(below, above, strict=True)):
        x = paper.x(binned.start(run[0]))
        upper = "".join(f"V{scale(above[n]):.1f}H{paper.x(binned.end(n)):.1f}" for n in run)
        lower = "".join(f"V{scale(below[n]):.1f}H{paper.x(binned.start(n)):.1f}" for n in reversed(run))
        parts.append(f"M{x:.1f} {scale(below[run[0]]):.1f}{upper}{lower}z")
    return "".join(parts)


def _runs(present: Iterable[bool]) -> list[list[int]]:
    """Indexes of what is present, together where they follow each other."""
    found: list[list[int]] = []
    for number, there in enumerate(present):
        if there and found and found[-1][-1] == number - 1:
            found[-1].append(number)
        elif there:
            found.append([number])
    return found


def latency(binned: Binned, figures: Figures, paper: Paper) -> Panel:
    """p50 and p99 of the answers, and p99 of the calm as what to compare with."""
    height = 130.0 if paper.narrow else 160.0
    p50, p99 = binned.quantiles(0.5), binned.quantiles(0.99)
    calm = figures.p99(CALM)
    scale = whole_decades([*p50, *p99, calm], start=height, end=0.0)
    body = [tag("path", class_="between", d=_between(binned, paper, scale, p50, p99))]
    labels = []
    if not math.isnan(calm):
        y = scale(calm)
        body.append(tag("line", class_="calm", x1=paper.left, x2=paper.edge, y1=y, y2=y))
    for name, values in (("p50", p50), ("p99", p99)):
        body.append(tag("path", class_=f"line l-{name}", d=_curve(binned, paper, scale, values)))
        known = [value for value in values if not math.isnan(value)]
        if known:
            labels.append(Key(name, f"l-{name}", scale(known[-1])))
    if not math.isnan(calm):
        labels.append(Key(f"calm p99 {texts.milliseconds(calm)}", "l-calm", scale(calm) + 1))
    return Panel(
        "Latency",
        f"of answers due in {of_each(binned)}, from when they were due; logarithmic",
        height,
        body,
        ticks=[(scale(value), _tick(value)) for value in scale.decades()],
        labels=labels,
    )


def _tick(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def _middle(binned: Binned, paper: Paper, number: int) -> float:
    return paper.x((binned.start(number) + binned.end(number)) / 2)


def _curve(binned: Binned, paper: Paper, scale: Log | Linear, values: Sequence[float]) -> str:
    """Broken where nothing is known; a lone value is a dot."""
    parts = []
    for run in _runs(not math.isnan(value) for value in values):
        points = [f"{_middle(binned, paper, number):.1f} {scale(values[number]):.1f}" for number in run]
        parts.append("M" + "L".join(points) + ("h0" if len(points) == 1 else ""))
    return "".join(parts)


def _between(binned: Binned, paper: Paper, scale: Log, low: Sequence[float], high: Sequence[float]) -> str:
    parts = []
    for run in _runs(not math.isnan(value) for value in low):
        there = [f"{_middle(binned, paper, number):.1f} {scale(high[number]):.1f}" for number in run]
        back = [f"{_middle(binned, paper, number):.1f} {scale(low[number]):.1f}" for number in reversed(run)]
        parts.append("M" + "L".join([*there, *back]) + "z")
    return "".join(parts)


def trouble(binned: Binned, figures: Figures, paper: Paper) -> Panel:
    """Where requests failed or were answered wrong: a mark even for a single one among a million."""
    body: list[Markup] = []
    for place, name in enumerate(MARKS):
        body += _lane(binned, paper, name, place * _LANE, figures.counts)
    centres = [(place * _LANE + _LANE / 2, name) for place, name in enumerate(MARKS)]
    note = "every single one is marked" if any(figures.counts[name] for name in MARKS) else ""
    return Panel("Errors and wrong answers", note, _LANE * len(MARKS), body, ticks=centres)


def _lane(binned: Binned, paper: Paper, name: str, top: float, counts: Counter[str]) -> list[Markup]:
    hit = [(number, each.counts[name]) for number, each in enumerate(binned.bins) if each.counts[name]]
    middle = top + _LANE / 2
    if not hit:
        none = f"\u2713 none in {texts.some(counts.total(), 'request')}"
        return [tag("text", none, class_="none", x=paper.left + 8, y=middle + 4)]
    starts = [paper.x(binned.start(number)) for number, _ in hit]
    ends = [max(paper.x(binned.end(number)), start + 3) for (number, _), start in zip(hit, starts, strict=True)]
    parts = []
    for run in _runs(each.counts[name] > 0 for each in binned.bins):
        start = paper.x(binned.start(run[0]))
        length = max(3.0, paper.x(binned.end(run[-1])) - start)
        parts.append(tag("rect", class_=f"o-{name}", x=start, y=middle - 8, width=length, height=16.0))
    widest = width(f"{MARKS[name]} {texts.count(counts[name])}", paper.size + 1) + 10
    for cluster in clusters(starts, gap=2 * widest):
        label = f"{MARKS[name]} {texts.count(sum(hit[number][1] for number in cluster))}"
        right = ends[cluster[-1]] + 5
        fits = right + widest < paper.edge
        x, anchor = (right, "start") if fits else (starts[cluster[0]] - 5, "end")
        parts.append(tag("text", label, class_=f"count t-{name}", x=x, y=middle + 5, text_anchor=anchor))
    return parts


def degraded(binned: Binned, figures: Figures, paper: Paper) -> Panel:
    """Which part of the answers came from a fallback."""
    height = 56.0
    shares = [100 * each.degraded_share for each in binned.bins]
    scale = zero_based(shares, start=height, end=0.0, at_least=10.0)
    scale = Linear(0.0, min(100.0, scale.high), height, 0.0)
    zero, filled = [0.0] * len(shares), [0.0 if math.isnan(share) else share for share in shares]
    total = texts.share(figures.counts["degraded"], figures.answers)
    return Panel(
        "Degraded answers",
        f"as a share of all answers; {total} of the whole run",
        height,
        [tag("path", class_="area o-degraded", d=_steps(binned, paper, scale, zero, filled))],
        ticks=[(scale(value), f"{value:g} %") for value in (0.0, scale.high / 2, scale.high)],
    )
