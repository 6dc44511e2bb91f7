"""Faults on demand: what a model replica can be told to do wrong, and what that means for one run. Pure.

Tests and chaos harnesses send these. Not here: doing it (``serving.channel.injector``), who may ask for it
(``serving.ingress.faults``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from models.inference import DATATYPES, Array
from models.signature import Signature

HANG_S: Final = 60.0
"""How long a hang lasts that doesn't say: one that hangs can't be told to stop."""

SLOW_MAX_S: Final = 60.0
"""Most that is added to one run, whatever its rows and its factor come to."""

EVERY: Final = "all"
_BF16_NAN: Final = 0x7FC0

Rate = Annotated[float, Meta(ge=0, le=1)]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Everything that one replica does wrong at a time. Rates are shares of the runs of the model.

    ``slow_ms``, ``slow_ms_per_row`` and ``slow_factor`` add up. ``channel`` happens when a batch arrives, to
    ``channel_rate`` of them; a stall, once it has begun, lasts as long as the fault and leaves pings unanswered too.
    Every run leaks ``leak_kib_per_run``, and what has leaked stays until the process ends.
    ``for_s`` ends all of it. The same ``seed`` makes the same choices again.
    """

    fail_rate: Rate = 0.0
    slow_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    slow_ms_per_row: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    slow_factor: Annotated[float, Meta(ge=1, le=1000)] = 1.0
    nan_rate: Rate = 0.0
    wrong_shape_rate: Rate = 0.0
    leak_kib_per_run: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    hang: Literal["loop", "model"] | None = None
    channel: Literal["cut", "garble", "stall"] | None = None
    channel_rate: Annotated[float, Meta(gt=0, le=1)] = 1.0
    exit: bool = False
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    for_s: Annotated[float, Meta(gt=0, le=3600)] | None = None

    def __post_init__(self) -> None:
        if self.channel is None and self.channel_rate != 1.0:
            raise ValueError("channel_rate: without `channel` it has no meaning")
        touches_runs = self.fail_rate or self.nan_rate or self.wrong_shape_rate or self.slow or self.leak_kib_per_run
        if not (touches_runs or self.hang or self.channel or self.exit):
            raise ValueError("it names nothing that shall go wrong")

    @property
    def slow(self) -> bool:
        """Whether runs take longer than they would."""
        return self.slow_ms > 0 or self.slow_ms_per_row > 0 or self.slow_factor > 1

    @property
    def lasts_s(self) -> float | None:
        """After how many seconds it ends by itself, if ever."""
        return self.for_s if self.for_s is not None or self.hang is None else HANG_S

    def added_s(self, *, rows: int, ran_s: float) -> float:
        """The seconds that are added to a run of so many rows that took ``ran_s`` seconds by itself."""
        added_ms = self.slow_ms + self.slow_ms_per_row * rows + (self.slow_factor - 1) * ran_s * 1000
        return min(SLOW_MAX_S, added_ms / 1000)


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a gateway tells all replicas of a version; each knows whether it is meant.

    ``replica`` is an id, "all", or None, which asks only what is in force. Without ``fault`` all is well again.
    """

    replica: str | None = None
    fault: Fault | None = None

    def means(self, replica_id: str) -> bool:
        return self.replica in (EVERY, replica_id)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's answer to a ``Command``: the fault in force, and for how many seconds more (None: until told)."""

    replica: str
    meant: bool
    fault: Fault | None = None
    left_s: float | None = None


class Chance(Protocol):
    """Where numbers between 0 and 1 come from: ``random.Random``."""

    def random(self) -> float: ...


class Fate(NamedTuple):
    """What goes wrong with one run."""

    fails: bool
    nan: bool
    wrong_shape: bool


def draw(fault: Fault, chance: Chance) -> Fate:
    """Always the same number of draws, so that one rate doesn't change what another one does."""
    draws = (chance.random(), chance.random(), chance.random())
    return Fate(draws[0] < fault.fail_rate, draws[1] < fault.nan_rate, draws[2] < fault.wrong_shape_rate)


def spoilt(arrays: Sequence[Array], fate: Fate, signature: Signature) -> list[Array]:
    """The outputs of a run as its fate will have them: NaN in every float, or a first output with a shape too many."""
    wrong = list(arrays)
    if fate.nan:
        wrong = [
            _all_nan(spec.datatype, array) if DATATYPES[spec.datatype].kind == "float" else array
            for spec, array in zip(signature.outputs, wrong, strict=True)
        ]
    if fate.wrong_shape:
        wrong[0] = wrong[0][..., None]
    return wrong


def _all_nan(datatype: str, array: Array) -> Array:
    return np.full_like(array, _BF16_NAN if datatype == "BF16" else np.nan)


def misfit(fault: Fault, signature: Signature) -> str | None:
    """Why a model of this signature can't do that, naming the field; None if it can."""
    if fault.nan_rate and not any(DATATYPES[spec.datatype].kind == "float" for spec in signature.outputs):
        return "nan_rate: the model has no output of floats"
    return None
