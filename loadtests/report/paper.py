"""What all panels of the timeline have in common: one time axis, a title, a legend, gridlines. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.report import texts
from loadtests.report.labels import rows, shorten, spread, width
from loadtests.report.markup import Markup, tag
from loadtests.report.scales import Linear, time_ticks

SWATCH, LINE = 9.0, 17.0
"""The side of a legend's square, and the distance of two lines of text."""


@dataclass(frozen=True)
class Paper:
    """How wide the drawing is. A narrow one, for a phone, has its labels above the curves instead of beside them."""

    width: float
    left: float
    right: float
    seconds: float
    narrow: bool
    size: float
    """Of the letters."""

    @property
    def edge(self) -> float:
        """Where the plots end."""
        return self.width - self.right

    @property
    def room(self) -> float:
        return self.edge - self.left

    def x(self, second: float) -> float:
        return Linear(0.0, self.seconds, self.left, self.edge)(second)

    def times(self) -> list[float]:
        return time_ticks(self.seconds, at_most=5 if self.narrow else 12)


def wide(seconds: float) -> Paper:
    return Paper(1040.0, 62.0, 158.0, seconds, narrow=False, size=12.0)


def phone(seconds: float) -> Paper:
    return Paper(372.0, 44.0, 8.0, seconds, narrow=True, size=11.0)


@dataclass(frozen=True)
class Key:
    """What a colour stands for. `at` is the height of the curve's end, beside which it is written if there is room."""

    label: str
    class_: str
    at: float | None = None
    swatch: bool = True


@dataclass(frozen=True)
class Panel:
    """A plot; all its heights count from its own upper edge."""

    title: str
    note: str
    height: float
    body: Sequence[Markup]
    ticks: Sequence[tuple[float, str]] = ()
    """Heights at which a line goes across, with what is written beside it."""
    labels: Sequence[Key] = ()
    """Written beside the curves."""
    legend: Sequence[Key] = ()
    """Written behind the title."""


def place(panel: Panel, paper: Paper, top: float) -> tuple[Markup, float]:
    """The panel drawn below `top`, and where it ends."""
    parts: list[object] = []
    y = top + 20
    title = [tag("tspan", panel.title, class_="title")]
    if panel.note and (not paper.narrow or width(f"{panel.title}  {panel.note}", paper.size) < paper.width):
        title.append(tag("tspan", panel.note, class_="note", dx=7))
    parts.append(tag("text", *title, x=paper.left if not paper.narrow else 2.0, y=y))
    y += 8
    above = [*panel.legend, *(panel.labels if paper.narrow else ())]
    if above and not paper.narrow:
        parts += _legend_line(above, paper.edge, y - 8, paper.size)
    elif above:
        lines = _legend_lines(above, paper, y + 8)
        parts += lines
        y += LINE * len({line[1] for line in _places(above, paper)}) + 2
    inner = [_grid(panel, paper), *panel.body]
    if not paper.narrow:
        inner += _beside(panel, paper)
    parts.append(tag("g", *inner, transform=f"translate(0 {y:.1f})"))
    return tag("g", *parts), y + panel.height


def _grid(panel: Panel, paper: Paper) -> list[Markup]:
    parts = [
        tag("line", class_="grid", x1=paper.x(at), x2=paper.x(at), y1=0.0, y2=panel.height) for at in paper.times()
    ]
    for y, label in panel.ticks:
        parts.append(tag("line", class_="grid", x1=paper.left, x2=paper.edge, y1=y, y2=y))
        parts.append(tag("text", label, class_="tick", x=paper.left - 6, y=y + 4, text_anchor="end"))
    parts.append(tag("line", class_="axis", x1=paper.left, x2=paper.edge, y1=panel.height, y2=panel.height))
    return parts


def _beside(panel: Panel, paper: Paper) -> list[Markup]:
    wanted = [panel.height / 2 if key.at is None else key.at for key in panel.labels]
    heights = spread(wanted, low=5.0, high=max(5.0, panel.height - 3), gap=15.0)
    parts = []
    for key, y in zip(panel.labels, heights, strict=True):
        x = paper.edge + 8
        if key.swatch:
            parts.append(_swatch(key, x, y))
            x += SWATCH + 6
        label = shorten(key.label, paper.width - x, paper.size)
        title = tag("title", key.label) if label != key.label else None
        parts.append(tag("text", label, title, class_="label", x=x, y=y + 4))
    return parts


def _swatch(key: Key, x: float, y: float) -> Markup:
    return tag("rect", class_=f"swatch {key.class_}", x=x, y=y - SWATCH / 2, width=SWATCH, height=SWATCH, rx=2)


def _needed(key: Key, size: float) -> float:
    return SWATCH + 5 + width(key.label, size)


def _legend_line(keys: Sequence[Key], edge: float, y: float, size: float) -> list[Markup]:
    """To the left of the edge, in one line."""
    x = edge - sum(_needed(key, size) + 12 for key in keys) + 12
    parts = []
    for key in keys:
        parts += [_swatch(key, x, y - 4), tag("text", key.label, class_="label", x=x + SWATCH + 5, y=y)]
        x += _needed(key, size) + 12
    return parts


def _places(keys: Sequence[Key], paper: Paper) -> list[tuple[float, float]]:
    room = paper.width - 4
    widths = [min(room, _needed(key, paper.size)) for key in keys]
    found = []
    for number, line in enumerate(rows(widths, room=room, gap=10)):
        x = 2.0
        for key in line:
            found.append((x, number * LINE))
            x += widths[key] + 10
    return found


def _legend_lines(keys: Sequence[Key], paper: Paper, y: float) -> list[Markup]:
    parts = []
    for key, (x, down) in zip(keys, _places(keys, paper), strict=True):
        label = shorten(key.label, paper.width - x - SWATCH - 5, paper.size)
        parts += [_swatch(key, x, y + down - 4), tag("text", label, class_="label", x=x + SWATCH + 5, y=y + down)]
    return parts


def time_axis(paper: Paper, y: float, *, title: bool) -> list[Markup]:
    """The ticks' labels, the last one with its right end at the edge if it would run over."""
    parts = []
    for at in paper.times():
        label, x = texts.clock(at), paper.x(at)
        over = x + width(label, paper.size) / 2 > paper.width - 2
        parts.append(tag("text", label, class_="tick", x=x, y=y + 14, text_anchor="end" if over else "middle"))
    if title:
        middle = (paper.left + paper.edge) / 2
        unit = "seconds" if paper.seconds < 180 else "minutes:seconds"
        what = f"time since the run began ({unit})"
        parts.append(tag("text", what, class_="note", x=middle, y=y + 32, text_anchor="middle"))
    return parts
