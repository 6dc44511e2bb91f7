"""How far the counts of each gateway have become observations: what a collector needs to go on after a restart. Pure.

Not here: taking the differences (``serving.rollout.collector``).
"""

from __future__ import annotations

import msgspec

from serving.routing.outcomes import Counted


class CountedAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is counted of a gateway at one weight. ``keys``: so many of its bad keys at that weight, the first ones."""

    weight: float
    canary: Counted = Counted()
    stable: Counted = Counted()
    keys: int = 0


class GatewayCursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is counted of one gateway, from its start (wall clock) on.

    ``compared`` and ``agreed`` are its mirror's counts up to which its comparisons have been taken.
    """

    gateway: str
    started: float
    weights: tuple[CountedAt, ...] = ()
    compared: int = 0
    agreed: int = 0
