"""The picture of docs/judgement.md: plain SVG, no plotting library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from xml.sax.saxutils import escape

from loadtests.bench.plot import LogScale
from loadtests.bench.report import number
from tests.micro.judgement import Floats

WIDTH, ROW, TOP, LABELS = 960, 44, 78, 150
INK, FAINT = "#24292f", "#d0d7de"
PALETTE = ("#d9480f", "#084594", "#4292c6", "#6a51a3")
DECISION_RIGHT, CURVES_LEFT, CURVES_RIGHT, HEIGHT_OF_CURVES = 540.0, 610.0, 930.0, 0.1


@dataclass(frozen=True)
class Range:
    """Requests to the decision: the middle, and what 10 % and 90 % of the rollouts need. Never is infinite."""

    name: str
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Curve:
    """When healthy rollouts were taken back, sorted; one entry each, infinite for never."""

    name: str
    colour: int
    decided: Floats
    dashed: bool


def plot(rules: Sequence[str], ranges: Sequence[Sequence[Range]], curves: Sequence[Curve], *, alpha: float) -> str:
    """To the left the requests to each decision, to the right false rollbacks by how long one has watched."""
    bottom = TOP + ROW * len(ranges[0])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 40}" font-family="sans-serif"'
    lines = [
        f'{head} font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{bottom + 40}" fill="white"/>',
        *_decisions(rules, ranges, bottom),
        *_false_rollbacks(curves, bottom, alpha),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _decisions(rules: Sequence[str], ranges: Sequence[Sequence[Range]], bottom: float) -> list[str]:
    scale = LogScale(10, 1e6, LABELS, DECISION_RIGHT)
    parts = ['<text x="10" y="20" font-weight="600">Requests until a bad canary is taken back (log; 10 to 90 %)</text>']
    x = 10
    for place, rule in enumerate(rules):
        parts.append(f'<circle cx="{x + 6}" cy="40" r="5" fill="{PALETTE[place]}"/>')
        parts.append(f'<text x="{x + 16}" y="44">{escape(rule)}</text>')
        x += 34 + 7 * len(rule)
    parts += _grid(scale, bottom)
    for row, named in enumerate(ranges[0]):
        y = TOP + ROW * row
        parts.append(f'<text x="{LABELS - 12}" y="{y + 26}" text-anchor="end">{escape(named.name)}</text>')
        for place, of_rule in enumerate(ranges):
            parts += _bar(of_rule[row], scale, y + 8 + 9 * place, PALETTE[place], rules[place])
    return parts


def _bar(found: Range, scale: LogScale, y: float, colour: str, rule: str) -> list[str]:
    if not isfinite(found.low):
        return []
    left, right = scale(found.low), scale(found.high) if isfinite(found.high) else scale.right
    parts = [f'<line x1="{left:.1f}" y1="{y}" x2="{right:.1f}" y2="{y}" stroke="{colour}" stroke-width="2"/>']
    if isfinite(found.middle):
        told = escape(f"{rule}, {found.name}: {number(found.middle)}")
        parts.append(
            f'<circle cx="{scale(found.middle):.1f}" cy="{y}" r="4" fill="{colour}"><title>{told}</title></circle>'
        )
    return parts


def _grid(scale: LogScale, bottom: float) -> list[str]:
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{FAINT}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{number(tick).split(".")[0]}</text>')
    return parts


def _false_rollbacks(curves: Sequence[Curve], bottom: float, alpha: float) -> list[str]:
    scale = LogScale(100, 1e6, CURVES_LEFT, CURVES_RIGHT)
    title = "Healthy canaries taken back (dashed: 15 req/s)"
    parts = [f'<text x="{CURVES_LEFT - 30}" y="20" font-weight="600">{title}</text>', *_grid(scale, bottom)]

    def height(share: float) -> float:
        return bottom - (bottom - TOP) * min(share, HEIGHT_OF_CURVES) / HEIGHT_OF_CURVES

    for share in (0, 0.02, 0.04, 0.06, 0.08, 0.1):
        y = height(share)
        parts.append(f'<text x="{CURVES_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
        parts.append(f'<line x1="{CURVES_LEFT}" y1="{y:.1f}" x2="{CURVES_RIGHT}" y2="{y:.1f}" stroke="{FAINT}"/>')
    y = height(alpha)
    bound = f'<line x1="{CURVES_LEFT}" y1="{y:.1f}" x2="{CURVES_RIGHT}" y2="{y:.1f}" stroke="{INK}"'
    parts.append(f'{bound} stroke-dasharray="2 3"/>')
    parts.append(f'<text x="{CURVES_LEFT + 6}" y="{y - 5:.1f}">alpha {alpha:g}</text>')
    return [*parts, *(_steps(curve, scale, height) for curve in curves)]


def _steps(curve: Curve, scale: LogScale, height: Callable[[float], float]) -> str:
    points = [f"M{scale.left:.1f},{height(0):.1f}"]
    last = scale.left
    for rank, decided in enumerate(curve.decided, start=1):
        if not isfinite(decided):
            break
        x = max(scale.left, scale(float(decided)))
        if x - last > 0.5 or rank == 1:  # finer than can be seen
            points.append(f"H{x:.1f}")
            last = x
        share = rank / len(curve.decided)
        if points[-1].startswith("V"):
            points[-1] = f"V{height(share):.1f}"
        else:
            points.append(f"V{height(share):.1f}")
        if share >= HEIGHT_OF_CURVES:
            break
    dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
    return (
        f'<path d="{"".join(points)}" fill="none" stroke="{PALETTE[curve.colour]}" stroke-width="2"{dash}>'
        f"<title>{escape(curve.name)}</title></path>"
    )
