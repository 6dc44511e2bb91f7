"""A picture of what was measured with one payload: plain SVG, no plotting library."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from loadtests.bench.report import OURS, Section, number
from loadtests.bench.results import Summary

WIDTH, ROW, TOP, LABELS, GAP, MARGIN = 1240, 26, 88, 140, 56, 30
SHARES = (0.34, 0.24, 0.22, 0.20)  # of the width, panel by panel
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


def render(section: Section) -> str:
    """Four panels, a row for each system: requests per second, latency of a lone caller, CPU and memory."""
    height = TOP + ROW * len(section.systems) + 50
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    return "\n".join(
        [
            f'{head} font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{MARGIN}" y="22" font-size="15" font-weight="600">{escape(section.payload.title)}</text>',
            *_rows(section.systems),
            *(line for panel in _panels(section) for line in _panel(panel, bottom=height - 40)),
            "</svg>\n",
        ]
    )


def _panels(section: Section) -> list[Panel]:
    first, last = section.counts[0], section.counts[-1]
    by_count = list(zip(section.counts, COLOURS, strict=False))
    contents = [
        (
            "Requests per second, log (more is better)",
            [(f"c={c}", colour, _dots(section, c, _rate)) for c, colour in by_count],
        ),
        (
            f"Latency in ms at c={first}, log (less)",
            [
                (name, colour, _dots(section, first, figure))
                for name, colour, figure in (("p50", COLOURS[2], _p50), ("p99", COLOURS[0], _p99))
            ],
        ),
        (
            "CPU ms per request, log (less)",
            [(f"c={c}", colour, _dots(section, c, _cpu)) for c, colour in by_count],
        ),
        ("Memory in MB, PSS, log (less)", [(f"c={last}", COLOURS[2], _dots(section, last, _pss))]),
    ]
    panels, left = [], float(LABELS)
    for share, (title, series) in zip(SHARES, contents, strict=True):
        right = left + share * (WIDTH - LABELS - MARGIN)
        panels.append(Panel(title, left, right - GAP, series))
        left = right
    return panels


def _rate(summary: Summary) -> float | None:
    return summary.per_second


def _p50(summary: Summary) -> float | None:
    return summary.p50_ms


def _p99(summary: Summary) -> float | None:
    return summary.p99_ms


def _cpu(summary: Summary) -> float | None:
    return summary.cpu_s_per_1000


def _pss(summary: Summary) -> float | None:
    return summary.pss_mb


def _dots(section: Section, c: int, figure: Callable[[Summary], float | None]) -> list[Dot]:
    """Nothing for a system that was not measured, or that answered nothing."""
    dots = []
    for row, system in enumerate(section.systems):
        summary = section.of(system, c)
        value = None if summary is None else figure(summary)
        if value is not None and value > 0:
            dots.append(Dot(row, value, f"{system} c={c}: {number(value)}"))
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
    parts = [f'<text x="{panel.left}" y="48" font-weight="600">{escape(panel.title)}</text>']
    for place, (name, colour, _) in enumerate(panel.series):
        x = panel.left + 6 + place * 58
        parts.append(f'<circle cx="{x}" cy="66" r="5" fill="{colour}"/><text x="{x + 10}" y="70">{escape(name)}</text>')
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{FAINT}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for _, colour, dots in panel.series:
        for dot in dots:
            place_of_dot = f'cx="{scale(dot.value):.1f}" cy="{TOP + ROW * dot.row + ROW / 2}"'
            parts.append(f'<circle {place_of_dot} r="5.5" fill="{colour}"><title>{escape(dot.text)}</title></circle>')
    return parts
