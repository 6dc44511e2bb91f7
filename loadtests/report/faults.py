"""The faults above the timeline, and their shadows across it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtests.report import texts
from loadtests.report.figures import windows
from loadtests.report.labels import lanes, shorten, width
from loadtests.report.markup import Markup, tag
from loadtests.report.paper import Paper
from loadtests.report.record import Fault

LANES_MAX = 8
_LANE, _BAR = 30.0, 8.0
_BOLD = 1.15
"""How much wider the letters of these labels are."""
_APART = 20.0
"""Where moments are closer than this on average, their lines are drawn fainter."""


@dataclass(frozen=True)
class Group:
    """Faults of one kind: one label for all of them."""

    label: str
    faults: Sequence[Fault]


def by_target(fault: Fault) -> str:
    return f"{words(fault.name)} \u00b7 {fault.target}" if fault.target else words(fault.name)


def by_name(fault: Fault) -> str:
    return words(fault.name)


def words(name: str) -> str:
    """`kill_replica` as people say it."""
    return name.replace("_", " ").replace("-", " ")


def groups(faults: Sequence[Fault], kind: Callable[[Fault], str]) -> list[Group]:
    """In the order in which they first happened."""
    found: dict[str, list[Fault]] = {}
    for fault in faults:
        found.setdefault(kind(fault), []).append(fault)
    return [Group(f"{label} \u00d7{len(each)}" if len(each) > 1 else label, each) for label, each in found.items()]


def arranged(faults: Sequence[Fault], paper: Paper) -> list[tuple[Group, int]]:
    """Groups with their lanes: by kind and target, or by kind if that takes too much room; at last the rest in one."""
    found: list[Group] = []
    for kind in (by_target, by_name):
        found = groups(faults, kind)
        chosen = lanes([_span(group, paper) for group in found], gap=8)
        if max(chosen, default=0) < LANES_MAX:
            return list(zip(found, chosen, strict=True))
    shown = sorted(found, key=lambda group: -len(group.faults))[: LANES_MAX - 1]
    rest = [group for group in found if group not in shown]
    merged = [fault for group in rest for fault in group.faults]
    last = Group(f"{len(rest)} more kinds of faults \u00d7{len(merged)}", merged)
    return [(group, number) for number, group in enumerate([*shown, last])]


def _label(group: Group, paper: Paper) -> tuple[str, float, float]:
    """The label, where it begins and how wide it is: above its first mark, or further left if the edge is near."""
    label = shorten(group.label, paper.width - 4, paper.size * _BOLD)
    needed = width(label, paper.size * _BOLD)
    return label, max(2.0, min(paper.x(group.faults[0].at_s) - 1, paper.width - 2 - needed)), needed


def _span(group: Group, paper: Paper) -> tuple[float, float]:
    _, x, needed = _label(group, paper)
    end = max(paper.x(_end(fault)) for fault in group.faults)
    return min(x, paper.x(group.faults[0].at_s)), max(x + needed, end)


def _end(fault: Fault) -> float:
    return fault.at_s if fault.until_s is None else fault.until_s


def track(faults: Sequence[Fault], paper: Paper, top: float) -> tuple[list[Markup], float]:
    """The lanes below `top`, and where they end."""
    placed = arranged(faults, paper)
    parts: list[Markup] = []
    for group, lane in placed:
        y = top + lane * _LANE
        label, x, _ = _label(group, paper)
        parts.append(tag("text", label, tag("title", group.label), class_="fault-label", x=x, y=y + 11))
        drawn: set[int] = set()
        for fault in group.faults:
            if (at := round(paper.x(fault.at_s))) not in drawn or fault.until_s is not None:
                parts.append(_mark(fault, paper, y + 16))
                drawn.add(at)
    return parts, top + _LANE * (max((lane for _, lane in placed), default=-1) + 1)


def _mark(fault: Fault, paper: Paper, y: float) -> Markup:
    when = f"{texts.clock(round(fault.at_s, 1))}"
    if fault.until_s is not None:
        when += f" to {texts.clock(round(fault.until_s, 1))}"
    told = tag("title", f"{by_target(fault)}, {when}" + (f": {fault.detail}" if fault.detail else ""))
    x = paper.x(fault.at_s)
    if fault.until_s is None:
        return tag("g", told, tag("path", class_="fault", d=f"M{x - 5:.1f} {y:.1f}h10l-5 {_BAR + 1:.1f}z"))
    length = max(3.0, paper.x(fault.until_s) - x)
    return tag("g", told, tag("rect", class_="fault", x=x, y=y, width=length, height=_BAR, rx=2))


def bands(faults: Sequence[Fault], paper: Paper, top: float, bottom: float) -> list[Markup]:
    """Behind the curves, when a fault was at work; without overlaps, so that none is darker than others."""
    lasting = windows(fault for fault in faults if fault.until_s is not None)
    return [
        tag(
            "rect",
            class_="band",
            x=paper.x(start),
            y=top,
            width=max(1.5, paper.x(end) - paper.x(start)),
            height=bottom - top,
        )
        for start, end in lasting
    ]


def moments(faults: Sequence[Fault], paper: Paper, top: float, bottom: float) -> list[Markup]:
    """Before the curves a line for each fault without an end, but not two where only one would be seen."""
    places = sorted({round(paper.x(fault.at_s) / 2) * 2.0 for fault in faults if fault.until_s is None})
    class_ = "moment many" if len(places) * _APART > paper.room else "moment"
    return [tag("line", class_=class_, x1=x, x2=x, y1=top, y2=bottom) for x in places]
