"""The collector of cyclic garbage, set for a process that answers requests.

By itself it looks at the young objects after every 700 that were made, which is every few dozen requests, and now and
then at all there are: Ray, Serve and numpy alone are some hundred thousand, all of which stay, and every request waits
until they have been looked at. Requests leave hardly any cycles. Not here: memory that grows (``serving.health``).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG: Final = 5_000
"""So many objects more than went away are made before the young ones are looked at."""
OLDER: Final = (10, 10)
"""So many looks at a generation go by before the next one is looked at; Python's own."""


def settle() -> None:
    """To be called once, when everything that stays has been made: it isn't looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *OLDER)


@contextmanager
def paused() -> Iterator[None]:
    """No look at all meanwhile: for millions of objects that go away by themselves. In one thread at a time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
