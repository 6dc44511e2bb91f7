"""Knows from what it saw whether a batch will be quick enough to be run on the loop itself. Pure.

Handing work to the model's thread and back costs two switches between threads, more than a small model's answer. A
model that is known to answer far below a millisecond doesn't hold up the loop, so it is spared them.
"""

from __future__ import annotations

from typing import Final

from models.signature import ANY, Signature

QUICK_S: Final = 0.001
SEEN_MIN: Final = 16
"""Runs of a size that must have been seen before it is trusted."""

FADE: Final = 0.95
"""How much of the slowest run is still remembered after the next one."""


def told_by_rows(signature: Signature) -> bool:
    """Whether a batch is as large as its rows say: each row of every input holds as much as any other."""
    return signature.batched and not any(ANY in spec.shape[1:] or spec.datatype == "BYTES" for spec in signature.inputs)


class Pace:
    """The slowest recent run for every size of batch: its rows and, where those don't tell all, its bytes.

    Sizes are taken together in powers of two.
    """

    def __init__(self) -> None:
        self._slowest_s: dict[tuple[int, int], float] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def ran(self, rows: int, seconds: float, *, size_bytes: int = 0) -> None:
        size = rows.bit_length(), size_bytes.bit_length()
        self._slowest_s[size] = max(seconds, self._slowest_s.get(size, 0.0) * FADE)
        self._seen[size] = self._seen.get(size, 0) + 1

    def failed(self, rows: int, *, size_bytes: int = 0) -> None:
        """A run that raised says nothing about the next: the size has to prove itself anew."""
        self._seen[rows.bit_length(), size_bytes.bit_length()] = 0

    def quick(self, rows: int, *, size_bytes: int = 0) -> bool:
        """Whether such a batch can be expected to take less than ``QUICK_S`` seconds."""
        size = rows.bit_length(), size_bytes.bit_length()
        return self._seen.get(size, 0) >= SEEN_MIN and self._slowest_s[size] < QUICK_S
