"""When requests are due and when faults happen. Pure.

Not here: waiting for those moments (`load.py`, `stage.py`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Arrival(NamedTuple):
    """A request that is due, in seconds after the load began, and which of the inputs it has."""

    due_s: float
    image: int
    priority: int


def steady(
    rate: float, *, images: Sequence[int], at_most_s: float, priorities: Sequence[int] = (0,)
) -> Iterator[Arrival]:
    """Open-loop arrivals at one rate: each is due whether or not those before it were answered.

    Inputs and priorities take turns. Their numbers should have no common divisor: then each input comes with each
    priority.
    """
    index = 0
    while (due := index / rate) < at_most_s:
        yield Arrival(due, images[index % len(images)], priorities[index % len(priorities)])
        index += 1
