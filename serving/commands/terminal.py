"""Lines of a terminal: coloured or not, never wider than they may be, and no control characters in them. Pure.

A line is made of spans, texts with a style each, so that its width is known before it is painted. Not here: what the
lines say, and writing them.
"""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime, tzinfo
from typing import Final

Span = tuple[str, str]
"""A text and its style: words of ``STYLES``, separated by spaces."""
Line = list[Span]

STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "reverse": "7",
}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_PARTS_OF_A_DAY: Final = ((86_400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "m"), (60.0, "m", 1.0, "s"))


def drawn(line: Line, width: int | None, *, color: bool) -> str:
    """The line as it is written: cut with an ellipsis if it is wider than ``width``."""
    left = width
    cut = left is not None and sum(len(text) for text, _ in line) > left
    if left is not None and cut:
        left -= 1
    pieces: list[str] = []
    for text, style in line:
        part = clean(text if left is None else text[:left])
        left = None if left is None else left - len(part)
        pieces.append(_painted(part, style) if color else part)
    if cut:
        pieces.append("…")
    return "".join(pieces).rstrip()


def clean(text: str) -> str:
    """The text without what could move the cursor or colour the screen: it may come from anybody."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "·" for sign in text)


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width``; one empty line for nothing. A number keeps its percent sign.

    Paths and names aren't taken apart at their hyphens: people copy them.
    """
    glued = clean(text.replace("\n", " ")).replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.wrap(glued, max(width, 10), break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [""]


def bar(share: float, width: int, style: str) -> Line:
    """A bar that is full at a share of 1; whatever is more or less than a bar can hold is cut off."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    if share > 0:
        eighths = max(eighths, 1)  # a little isn't nothing
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return [(filled, style), ("░" * (width - len(filled)), "dim")]


def figure(value: float) -> str:
    """A number of any size in a few characters."""
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share from 0 to 1. What isn't all isn't said to be all, and what isn't nothing isn't said to be nothing."""
    if share > 0.999 and share < 1:
        return "99.9 %"
    return f"{100 * share:.3g} %" if share == 0 or share >= 0.0001 else "under 0.01 %"


def lasting(seconds: float) -> str:
    """How long something takes: ``0.4 s``, ``42 s``, ``2m 14s``, ``1h 05m``, ``3d 02h``."""
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    seconds = float(round(seconds))
    for size, unit, below, small in _PARTS_OF_A_DAY:
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            return f"{whole:.0f}{unit} {rest // below:02.0f}{small}"
    return f"{seconds:.0f} s"


def clock(moment: float, zone: tzinfo | None) -> str:
    """The time of day of a moment in wall clock seconds; the local one without a ``zone``."""
    return _moment(moment, zone).strftime("%H:%M:%S")


def date_and_clock(moment: float, zone: tzinfo | None) -> str:
    return _moment(moment, zone).strftime("%Y-%m-%d %H:%M:%S")


def _moment(moment: float, zone: tzinfo | None) -> datetime:
    try:
        found = datetime.fromtimestamp(moment, UTC)
        return found.astimezone(zone)
    except (OverflowError, ValueError, OSError):  # a clock that was set by nobody
        return datetime.fromtimestamp(0, UTC)


def _painted(text: str, style: str) -> str:
    codes = ";".join(STYLES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text
