"""What a gateway counts of a rollout, and the form in which it tells: how first attempts at both variants ended. Pure.

Counts begin with the rollout's epoch in this gateway and only grow, so whoever collects them takes differences.
They are kept apart by the weight under which a request was thrown, for that is how likely it was to meet the canary.

With a stickiness key it is the key that was thrown, not the request: a key is ``bad`` once in a rollout, at whichever
variant it was bad first, and later bad attempts of it are ``repeated``. Another gateway can't know that, so every
gateway tells which keys (hashed) it has counted: whoever adds gateways up takes out those that it has had already.
Not here: what the numbers mean (the control plane), and when they are counted (``serving.request.trial``).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

WEIGHTS_MAX: Final = 32
"""Weights that are kept apart. A rollout has fewer steps; what comes after is put down under weight 1, where it is no
evidence: that is the safe side."""
KEYS_MAX: Final = 65_536
"""Bad keys that are remembered for a rollout. Of new ones after that the bad attempts are ``repeated`` ones, too."""

Kind = Literal["failed", "slow", "invalid"]


class Counted(msgspec.Struct, frozen=True, omit_defaults=True):
    """First attempts of one variant. ``bad`` are failed, ``slow`` and ``invalid`` ones together, each once.

    ``repeated`` isn't part of ``bad``: bad attempts of keys that have been bad before. They are no evidence, but their
    callers have met an error of the variant all the same, so they belong to what uses up an error budget.
    """

    attempts: int = 0
    bad: int = 0
    slow: int = 0
    invalid: int = 0
    repeated: int = 0


class AtWeight(msgspec.Struct, frozen=True):
    """What was thrown while the canary had this weight."""

    weight: float
    canary: Counted
    stable: Counted


class BadKey(msgspec.Struct, frozen=True, gc=False):
    """A key that has been counted as bad, by its mark, and where: ``canary`` or stable, at which weight."""

    mark: int
    weight: float
    canary: bool
    kind: Kind


class SplitOutcomes(msgspec.Struct, frozen=True):
    """Everything that one gateway has to tell of the latest rollout of a model.

    ``gateway`` and ``started`` (wall clock) are another one's after a restart, whose counts begin at 0. ``weight`` is
    the canary's in this gateway now: 0 also if the ``fault`` says why it can't send anything there, or the split has
    ended (``ended``). ``bad_keys`` are those from the number that was asked for up to ``next_key``; ``keys_full`` says
    that no more are remembered.
    """

    gateway: str
    started: float
    generation: int
    model: str
    epoch: str
    canary: str
    stable: str
    weight: float
    ended: bool
    fault: str
    weights: tuple[AtWeight, ...]
    bad_keys: tuple[BadKey, ...]
    next_key: int
    keys_full: bool


class Variant:
    """Counts of one variant at one weight, as they grow."""

    __slots__ = ("attempts", "bad", "canary", "invalid", "repeated", "slow", "weight")

    def __init__(self, weight: float, *, canary: bool) -> None:
        self.weight = weight
        self.canary = canary
        self.attempts = self.bad = self.slow = self.invalid = self.repeated = 0

    def counted(self) -> Counted:
        return Counted(self.attempts, self.bad, self.slow, self.invalid, self.repeated)


class Ledger:
    """The counts of one rollout in this gateway."""

    __slots__ = ("_bad_keys", "_rows", "_seen", "canary", "epoch", "fault", "stable", "taken_back_by")

    def __init__(self, epoch: str, canary: str, stable: str) -> None:
        self.epoch = epoch
        self.canary = canary
        self.stable = stable
        self.fault = ""
        """Why nothing can be sent to the canary from here."""
        self.taken_back_by = -1
        """The generation of the newest table known here that has no such split: what an older one says of it is void,
        also for requests that came while it was in force."""
        self._rows: dict[float, tuple[Variant, Variant]] = {}
        self._bad_keys: list[BadKey] = []
        self._seen: set[int] = set()

    def at(self, weight: float) -> tuple[Variant, Variant]:
        """The canary's and the stable version's counts at this weight."""
        if weight not in self._rows and len(self._rows) >= WEIGHTS_MAX:
            weight = 1.0
        row = self._rows.get(weight)
        if row is None:
            row = self._rows[weight] = (Variant(weight, canary=True), Variant(weight, canary=False))
        return row

    def bad(self, variant: Variant, kind: Kind, key: int | None) -> None:
        """An attempt was bad; ``key`` is the mark of what was thrown, None if that was the request itself."""
        if key is not None and not self._first_of(BadKey(key, variant.weight, variant.canary, kind)):
            variant.repeated += 1
            return
        variant.bad += 1
        if kind == "slow":
            variant.slow += 1
        elif kind == "invalid":
            variant.invalid += 1

    def _first_of(self, key: BadKey) -> bool:
        if key.mark in self._seen or self.keys_full:
            return False
        self._seen.add(key.mark)
        self._bad_keys.append(key)
        return True

    @property
    def keys_full(self) -> bool:
        return len(self._bad_keys) >= KEYS_MAX

    def counts(self) -> tuple[AtWeight, ...]:
        """By weight, the lowest first."""
        return tuple(
            AtWeight(weight, canary.counted(), stable.counted())
            for weight, (canary, stable) in sorted(self._rows.items())
        )

    def bad_keys(self, start: int) -> tuple[BadKey, ...]:
        """Those that were counted, in that order, from this number on."""
        return tuple(self._bad_keys[start:])

    @property
    def next_key(self) -> int:
        return len(self._bad_keys)
