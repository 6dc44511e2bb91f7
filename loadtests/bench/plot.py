"""A picture of what was measured with one payload: plain SVG, no plotting library.

A dot is the median of the rounds, the line through it goes from the lowest round to the highest. Axes are logarithmic
and their ends are near the figures, so lengths mean nothing: compare places with the marks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from xml.sax.saxutils import escape

from loadtests.bench.report import OURS, Section, number

WIDTH, ROW, TOP, LABELS, GAP, MARGIN = 1240, 30, 92, 140, 56, 30
SHARES = (0.31, 0.25, 0.25, 0.19)  # of the width, panel by panel
DOT = 4
TICK_ROOM = 46  # the labels of two marks don't touch
SHADES = ("light", "middle", "dark")
STYLE = """\
<style>
svg { --ink: #24292f; --faint: #d8dee4; --paper: #ffffff; --ours: #fff4d6; --stripe: #f6f8fa;
  --light: #74a9cf; --middle: #2b7bba; --dark: #08306b; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #d1d7e0; --faint: #373e47; --paper: #0d1117; --ours: #3a2f10; --stripe: #151b23;
    --light: #3d75a6; --middle: #6cb0e8; --dark: #d6ebff; }
}
text { fill: var(--ink); }
.paper { fill: var(--paper); } .ours { fill: var(--ours); } .stripe { fill: var(--stripe); }
.grid { stroke: var(--faint); }
.light { fill: var(--light); stroke: var(--light); } .middle { fill: var(--middle); stroke: var(--middle); }
.dark { fill: var(--dark); stroke: var(--dark); }
</style>"""


@dataclass(frozen=True)
class Dot:
    row: int
    middle: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Series:
    name: str
    shade: str
    dots: list[Dot]


@dataclass(frozen=True)
class Panel:
    """A title, where it stands, and what is in it."""

    title: str
    left: float
    right: float
    series: list[Series]


@dataclass(frozen=True)
class LogScale:
    """Maps a positive value to a place between `left` and `right`."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        """All of 1, 2, 5 and their tenfolds, or the decades alone where those would be too many; not less than two."""
        fine = _steps(self.low, self.high)
        decades = [tick for tick in fine if _is_decade(tick)]
        wide_enough = (self.right - self.left) / max(1, len(fine) - 1) >= TICK_ROOM
        return fine if wide_enough or len(decades) < 2 else decades


def _steps(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    return [step for step in steps if low * 0.999 <= step <= high * 1.001]


def _is_decade(value: float) -> bool:
    power = math.log10(value)
    return abs(power - round(power)) < 1e-6


def log_scale(values: Sequence[float], *, left: float, right: float) -> LogScale:
    """Spans all of `values`, which are positive, and ends at a 1, 2 or 5 on both sides."""
    smallest, largest = min(values), max(values)
    around = _steps(10.0 ** math.floor(math.log10(smallest)), 10.0 ** math.ceil(math.log10(largest) + 1e-9))
    low = max((step for step in around if step <= smallest), default=around[0])
    high = min((step for step in around if step >= largest), default=around[-1])
    return LogScale(low, high if high > low else low * 10, left, right)


def render(section: Section) -> str:
    """Four panels, a row for each system: requests per second, latency of a lone caller, CPU and memory."""
    bottom = TOP + ROW * len(section.systems)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 34}" font-family="sans-serif"'
    note = "dot: median of the rounds, line: lowest to highest; logarithmic axes"
    return "\n".join(
        [
            f'{head} font-size="12">',
            STYLE,
            f'<rect class="paper" width="{WIDTH}" height="{bottom + 34}"/>',
            f'<text x="{MARGIN}" y="22" font-size="15" font-weight="600">{escape(section.payload.title)}</text>',
            f'<text x="{WIDTH - MARGIN}" y="22" text-anchor="end">{note}</text>',
            *_rows(section.systems),
            *(line for panel in _panels(section) for line in _panel(panel, bottom=bottom)),
            "</svg>\n",
        ]
    )


def _panels(section: Section) -> list[Panel]:
    first, last = section.counts[0], section.counts[-1]
    contents = [
        ("Requests per second (more is better)", _by_count(section, "per_second")),
        (
            f"Latency in ms at c={first} (less is better)",
            [
                Series("p50", SHADES[2], _dots(section, first, "p50_ms")),
                Series("p99", SHADES[0], _dots(section, first, "p99_ms")),
            ],
        ),
        ("CPU ms per request (less is better)", _by_count(section, "cpu_s_per_1000")),
        ("PSS in MB (less is better)", [Series(f"c={last}", SHADES[2], _dots(section, last, "pss_mb"))]),
    ]
    panels, left = [], float(LABELS)
    for share, (title, series) in zip(SHARES, contents, strict=True):
        right = left + share * (WIDTH - LABELS - MARGIN + GAP)
        panels.append(Panel(title, left, right - GAP, series))
        left = right
    return panels


def _by_count(section: Section, figure: str) -> list[Series]:
    return [Series(f"c={c}", shade, _dots(section, c, figure)) for c, shade in _shaded(section.counts)]


def _shaded(counts: Sequence[int]) -> list[tuple[int, str]]:
    """Darker for more; the most is always the darkest, and more than there are shades are left to the tables."""
    shown = counts if len(counts) <= len(SHADES) else [counts[0], counts[len(counts) // 2], counts[-1]]
    return list(zip(shown, SHADES[-len(shown) :] if len(shown) != 2 else (SHADES[0], SHADES[2]), strict=True))


def _dots(section: Section, c: int, figure: str) -> list[Dot]:
    """Nothing for a system that was not measured, or that answered nothing."""
    dots = []
    for row, system in enumerate(section.systems):
        values = [value for value in section.values(system, c, figure) if value > 0]
        if values:
            dots.append(Dot(row, median(values), min(values), max(values), _text(system, c, values)))
    return dots


def _text(system: str, c: int, values: Sequence[float]) -> str:
    return f"{system} c={c}: {number(median(values))} ({number(min(values))} to {number(max(values))})"


def _rows(systems: list[str]) -> list[str]:
    parts = []
    for row, system in enumerate(systems):
        y = TOP + ROW * row
        if system == OURS or row % 2:
            kind = "ours" if system == OURS else "stripe"
            parts.append(f'<rect class="{kind}" x="0" y="{y}" width="{WIDTH}" height="{ROW}"/>')
        parts.append(f'<text x="{LABELS - 14}" y="{y + ROW / 2 + 4}" text-anchor="end">{escape(system)}</text>')
    return parts


def _panel(panel: Panel, *, bottom: float) -> list[str]:
    values = [value for series in panel.series for dot in series.dots for value in (dot.low, dot.high)]
    if not values:
        return []
    scale = log_scale(values, left=panel.left, right=panel.right)
    parts = [f'<text x="{panel.left}" y="50" font-weight="600">{escape(panel.title)}</text>']
    for place, series in enumerate(panel.series):
        x = panel.left + DOT + place * 62
        parts.append(f'<circle class="{series.shade}" cx="{x}" cy="68" r="{DOT}"/>')
        parts.append(f'<text x="{x + 10}" y="72">{escape(series.name)}</text>')
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{_mark(tick)}</text>')
    for place, series in enumerate(panel.series):
        # A lane for each series, so that none hides another.
        lane = (place + 1) / (len(panel.series) + 1)
        parts += [_drawn(dot, series.shade, scale, y=TOP + ROW * (dot.row + lane)) for dot in series.dots]
    return parts


def _mark(tick: float) -> str:
    return f"{tick:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if tick >= 1000 else f"{tick:g}"


def _drawn(dot: Dot, shade: str, scale: LogScale, *, y: float) -> str:
    line = f'<line x1="{scale(dot.low):.1f}" y1="{y:.1f}" x2="{scale(dot.high):.1f}" y2="{y:.1f}" stroke-width="2"/>'
    circle = f'<circle cx="{scale(dot.middle):.1f}" cy="{y:.1f}" r="{DOT}"/>'
    return f'<g class="{shade}"><title>{escape(dot.text)}</title>{line}{circle}</g>'
