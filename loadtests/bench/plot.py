"""A picture of the results: plain SVG, no plotting library."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from loadtests.bench.report import OURS, number
from loadtests.bench.results import Key, Results, Summary, summarise
from loadtests.bench.workloads import MLP

WIDTH, ROW, TOP, LABELS, GAP = 960, 30, 64, 130, 50
COLOURS = ("#9ecae1", "#4292c6", "#084594", "#6a51a3", "#54278f")
INK, FAINT, OURS_BAND = "#24292f", "#d0d7de", "#fff4d6"


@dataclass(frozen=True)
class Dot:
    row: int
    value: float
    text: str


@dataclass(frozen=True)
class LogScale:
    """Maps a positive value to a place between `left` and `right`; whole decades at both ends."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        share = math.log10(value / self.low) / math.log10(self.high / self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        decades = round(math.log10(self.high / self.low))
        return [self.low * 10**step for step in range(decades + 1)]


def log_scale(values: Sequence[float], *, left: float, right: float) -> LogScale:
    """Spans all of `values`, which are positive."""
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)))
    return LogScale(low, high if high > low else low * 10, left, right)


@dataclass(frozen=True)
class Panel:
    """A title, where it stands, and for each series its name, its colour and its dots."""

    title: str
    left: float
    right: float
    series: list[tuple[str, str, list[Dot]]]


def render(results: Results) -> str:
    """Two panels, a row for each system: requests per second at every c, and the latency of a lone caller."""
    summaries = {key: summary for key, summary in summarise(results.samples).items() if key[1] == MLP}
    systems = list(dict.fromkeys(key[0] for key in summaries))
    counts: list[int] = results.settings["connections"]
    height = TOP + ROW * len(systems) + 50
    rates = [
        (f"c={c}", colour, _dots(systems, c, summaries, _rate)) for c, colour in zip(counts, COLOURS, strict=False)
    ]
    lone = [
        (name, colour, _dots(systems, counts[0], summaries, figure))
        for name, colour, figure in (("p50", COLOURS[2], _p50), ("p99", COLOURS[0], _p99))
    ]
    middle = LABELS + (WIDTH - LABELS) * 0.6
    panels = [
        Panel("Requests per second (log)", LABELS, middle - GAP, rates),
        Panel(f"Latency in ms at c={counts[0]} (log)", middle, WIDTH - 30, lone),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    return "\n".join(
        [
            f'{head} font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *_rows(systems),
            *(line for panel in panels for line in _panel(panel, bottom=height - 40)),
            "</svg>\n",
        ]
    )


def _rate(summary: Summary) -> float:
    return summary.per_second


def _p50(summary: Summary) -> float:
    return summary.p50_ms


def _p99(summary: Summary) -> float:
    return summary.p99_ms


def _dots(systems: list[str], c: int, summaries: dict[Key, Summary], figure: Callable[[Summary], float]) -> list[Dot]:
    """Nothing for a system that was not measured, or that answered nothing."""
    dots = []
    for row, system in enumerate(systems):
        summary = summaries.get((system, MLP, c))
        if summary is not None and figure(summary) > 0:
            dots.append(Dot(row, figure(summary), f"{system} c={c}: {number(figure(summary))}"))
    return dots


def _rows(systems: list[str]) -> list[str]:
    parts = []
    for row, system in enumerate(systems):
        y = TOP + ROW * row
        if system == OURS:
            parts.append(f'<rect x="0" y="{y}" width="{WIDTH}" height="{ROW}" fill="{OURS_BAND}"/>')
        parts.append(f'<text x="{LABELS - 14}" y="{y + ROW / 2 + 4}" text-anchor="end">{escape(system)}</text>')
    return parts


def _panel(panel: Panel, *, bottom: float) -> list[str]:
    values = [dot.value for _, _, dots in panel.series for dot in dots]
    if not values:
        return []
    scale = log_scale(values, left=panel.left, right=panel.right)
    parts = [f'<text x="{panel.left}" y="20" font-weight="600">{escape(panel.title)}</text>']
    for place, (name, colour, _) in enumerate(panel.series):
        x = panel.left + 6 + place * 66
        parts.append(f'<circle cx="{x}" cy="40" r="5" fill="{colour}"/><text x="{x + 10}" y="44">{escape(name)}</text>')
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{FAINT}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for _, colour, dots in panel.series:
        for dot in dots:
            place_of_dot = f'cx="{scale(dot.value):.1f}" cy="{TOP + ROW * dot.row + ROW / 2}"'
            parts.append(f'<circle {place_of_dot} r="6" fill="{colour}"><title>{escape(dot.text)}</title></circle>')
    return parts
