"""Whether something grows: memory, open files, threads or the number of processes of one kind of process. Pure.

A process that replaces another one begins a line of its own: what a new one needs to get going isn't growth, and a
leak isn't forgiven because its process died. So only values of the same process are compared with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

POINTS_MAX: Final = 150
"""Of one process: more are thinned out, for every pair of them is looked at."""
LIFE_MIN: Final = 20.0
"""Seconds after its warm-up that a process must have lived to be judged."""

Line = Sequence[tuple[float, float]]
"""Of one process: moments in seconds, and values."""


@dataclass(frozen=True)
class Growth:
    """`level` is the middle of all values."""

    grown: float
    level: float
    longest_s: float
    lines: int


def growth(lines: Sequence[Line], *, warm_up_s: float) -> Growth | None:
    """How much processes of one kind grow; None if none lived long enough.

    A slope is the median of the slopes between all pairs of points (Theil and Sen), those far apart counting more
    (weight: the distance): noise and saw teeth fall out, and so does a single step. Growth is the most that the slope
    of one process makes in its own life, or what that of all together makes in the longest: one that leaks beside a
    sound one is found, and so is a leak in processes that never live long.
    """
    warm = [
        thinned([(at_s, value) for at_s, value in line if at_s >= line[0][0] + warm_up_s]) for line in lines if line
    ]
    judged = [line for line in warm if len(line) > 1 and line[-1][0] - line[0][0] >= LIFE_MIN]
    if not judged:
        return None
    lives_s = [line[-1][0] - line[0][0] for line in judged]
    slopes = [_slopes(line) for line in judged]
    of_each = [_middle(pairs) * life_s for pairs, life_s in zip(slopes, lives_s, strict=True)]
    of_all = _middle([pair for pairs in slopes for pair in pairs]) * max(lives_s)
    level = _middle([(value, 1.0) for line in judged for _, value in line])
    return Growth(max(of_all, *of_each), level, max(lives_s), len(judged))


def is_flat(found: Growth, *, most: float, share: float = 0.0) -> bool:
    """Within `most`, or within that share of the level if that is more."""
    return found.grown <= max(most, share * found.level)


def thinned(line: Line) -> Line:
    step = -(-len(line) // POINTS_MAX)
    return line[:: max(1, step)]


def _slopes(line: Line) -> list[tuple[float, float]]:
    """Between all pairs, with their distance in time."""
    return [
        ((value - before) / (at_s - earlier_s), at_s - earlier_s)
        for number, (at_s, value) in enumerate(line)
        for earlier_s, before in line[:number]
        if at_s > earlier_s
    ]


def _middle(weighted: Sequence[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached."""
    ordered = sorted(weighted)
    half, seen = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= half:
            return value
    raise ValueError("nothing has no middle")
