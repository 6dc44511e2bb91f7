"""How long all of it still takes, in words. Pure."""

from collections.abc import Sequence
from typing import Final

USUAL: Final = 1.5
"""So much longer than its load a scenario takes, with starts and with waiting until all is well again."""


SURE_S: Final = 300.0
"""That experience counts as much as so many seconds of load that were really played."""


def at_first(seconds: Sequence[float]) -> str:
    """Before anything was seen: by experience."""
    return f"{len(seconds)} scenarios, about {_minutes(USUAL * sum(seconds))}"


def left(elapsed_s: float, played_s: float, all_s: float) -> str:
    """By experience, and more and more by the seconds of load that were played in the time elapsed; "" at the end."""
    if played_s <= 0 or played_s >= all_s:
        return ""
    pace = (elapsed_s + USUAL * SURE_S) / (played_s + SURE_S)
    return f", about {_minutes(pace * (all_s - played_s))} left"


def _minutes(seconds: float) -> str:
    return f"{round(seconds / 60)} min" if seconds >= 90 else f"{round(seconds, -1):.0f} s"
