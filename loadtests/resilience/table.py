"""The table of a run, for a terminal. Pure."""

import math
from collections.abc import Sequence

from loadtests.resilience.figures import Figures, Kind
from loadtests.resilience.verdict import Result

_HEAD = ("scenario", "requests", "failed", "wrong", "degraded", "p99 calm -> fault", "recovery", "verdict")
_LEFT = (0, 7)  # text; numbers end at the right


def render(results: Sequence[Result], *, should_fail: bool = False) -> str:
    """A line for each scenario; below the table what else was seen. `should_fail`: a protection is switched off."""
    rows = [_row(result, should_fail) for result in results]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    widths[-1] = len(_HEAD[-1])  # the last one may be as long as it likes
    lines = [_line(_HEAD, widths), "  ".join("─" * width for width in widths)]
    lines += [_line(row, widths) for row in rows]
    noted = [result for result in results if result.notes]
    if noted:
        indent = max(len(result.name) for result in noted)
        lines.append("")
        lines += [
            f"{result.name if index == 0 else '':<{indent}}  {note}"
            for result in noted
            for index, note in enumerate(result.notes)
        ]
    return "\n".join([*lines, "", summary(results, should_fail=should_fail)])


def summary(results: Sequence[Result], *, should_fail: bool = False) -> str:
    held = sum(result.held for result in results)
    if should_fail:
        return f"{len(results) - held} of {len(results)} checks failed, as they should without the protection"
    return f"{held} of {len(results)} held"


def went_well(results: Sequence[Result], *, should_fail: bool = False) -> bool:
    """Whether all held; with a protection switched off, whether none did."""
    return bool(results) and all(result.held != should_fail for result in results)


def verdict(result: Result, *, should_fail: bool = False) -> str:
    why = "; ".join(result.complaints)
    if should_fail:
        return "HELD, though it shouldn't" if result.held else f"fails as it should: {why}"
    return "held" if result.held else f"NOT held: {why}"


def duration(seconds: float) -> str:
    """Three digits are enough."""
    if math.isnan(seconds):
        return "-"
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 9.9995 else f"{seconds:.1f} s"


def _row(result: Result, should_fail: bool) -> tuple[str, ...]:
    said = verdict(result, should_fail=should_fail)
    if result.figures is None:
        return (result.name, *("-",) * (len(_HEAD) - 2), said)
    found = result.figures
    return (
        result.name,
        f"{found.requests:,}".replace(",", " "),
        str(found.count(Kind.FAILED, Kind.LOST)),
        str(found.count(Kind.WRONG, Kind.UNMARKED)),
        str(found.count(Kind.DEGRADED)),
        f"{duration(found.calm_p99_s)} -> {duration(found.fault_p99_s):>7}",
        _recovery(found),
        said,
    )


def _recovery(found: Figures) -> str:
    if not found.recoveries_s:
        return "-"
    longest = found.recovery_s
    if longest is None:
        return "never"
    if longest == 0:
        return "not felt"
    return f"{longest:.1f} s" if longest >= 0.1 else duration(longest)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        f"{cell:<{width}}" if column in _LEFT else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()
