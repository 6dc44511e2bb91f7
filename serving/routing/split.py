"""Who gets the canary: by lot, and the same key always draws the same lot. Pure.

A key's lot is a hash of it and of the rollout's epoch, so every process draws alike and nobody has to remember
anything; the canary has the lots below its weight. While the weight only grows, a key that has come to the canary
stays there, and one rollout's guinea pigs aren't the next one's. Not here: what becomes of the request
(``serving.request.canary``), and what is counted (``serving.routing.outcomes``).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from serving.routing.table import Split

_FRACTION: Final = 2.0**-53
"""A float holds 53 bits exactly; more would round some lots up to 1."""


def mark(key: bytes, salt: str) -> int:
    """64 bits that stand for the key, in this rollout only: nobody can tell the key from them."""
    return _mark(_salted(salt), key)


def lot(key: bytes, salt: str) -> float:
    """What the key draws: at least 0, less than 1."""
    return (mark(key, salt) >> 11) * _FRACTION


def _salted(salt: str) -> blake2b:
    """A hash that has taken in the salt, its length first, so that no salt and key look like another pair."""
    raw = salt.encode()
    return blake2b(len(raw).to_bytes(4, "big") + raw, digest_size=8)


def _mark(salted: blake2b, key: bytes) -> int:
    fresh = salted.copy()
    fresh.update(key)
    return int.from_bytes(fresh.digest(), "big")


class Coin:
    """Thrown once for each request. ``random`` gives numbers from 0, less than 1."""

    __slots__ = ("_random", "_salted", "_sticky", "_weight")

    def __init__(self, split: Split, *, random: Callable[[], float]) -> None:
        self._salted = _salted(split.epoch)
        self._random = random
        self._sticky = split.stickiness == "key"
        self._weight = split.weight

    def canary(self, key: bytes | None) -> bool:
        """Whether a request with this key, or without one, goes to the canary."""
        if key is None or not self._sticky:
            return self._random() < self._weight
        return (_mark(self._salted, key) >> 11) * _FRACTION < self._weight
