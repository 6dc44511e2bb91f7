"""Figures as people read them. Pure."""

import math

NOTHING = "-"


def count(value: float) -> str:
    """Thousands apart by a thin blank; a fraction only where it means something."""
    if value != round(value) and abs(value) < 100:
        return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
    return f"{round(value):,}".replace(",", "\u202f")


def some(value: int, noun: str) -> str:
    """As in 1 request, 2 requests."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def milliseconds(value: float | None) -> str:
    """Three figures at most, in the unit in which they are short."""
    if value is None or math.isnan(value):
        return NOTHING
    if value >= 9_995:
        return f"{value / 1000:.1f} s"
    if value >= 999.5:
        return f"{value / 1000:.2f} s"
    if value >= 99.5:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 9.95 else f"{value:.2g} ms"


def share(part: float, whole: float) -> str:
    """In percent. What is not nothing isn't shown as 0 %, nor what is not all as 100 %."""
    if not whole:
        return NOTHING
    value = 100 * part / whole
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.01:
        return "<0.01 %"
    if value > 99.99:
        return ">99.99 %"
    return f"{value:.2f} %" if value < 1 or value > 99 else f"{value:.1f} %"


def clock(value: float) -> str:
    """A place on the time axis: seconds in a short run, minutes and seconds beyond."""
    if abs(value) < 180:
        return f"{value:g} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}:{seconds:02d}"


def seconds(value: float | None) -> str:
    """A length of time."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < 1:
        return f"{value:.2f} s"
    if value < 180:
        return f"{round(value, 1):g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def plain(value: float, unit: str = "") -> str:
    """A value of a series, with its unit."""
    if math.isnan(value):
        return NOTHING
    figure = count(value) if abs(value) >= 100 or value == round(value) else f"{value:.3g}"
    return f"{figure} {unit}".strip()
