"""What makes a replica stand out among its siblings. Pure, and only a judgement: see ``serving.request.ejection``.

Two things do: a share of bad calls, or a mean time, far above the siblings'. They are measured against the middle
sibling, not against all together: bad replicas are often quick, attract most of the work, and would hide each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Final, Generic, TypeVar

from serving.model_settings import EjectionSettings
from serving.request.window import Sums, Window

TRIAL_CALLS: Final = 5
"""Calls after which a replica that came back is judged again, and that siblings must have had to be compared with."""

WORSE_FACTOR: Final = 3.0
"""The share of bad calls must be so many times the siblings'."""

SIGMAS: Final = 4.0
"""The shares must differ by so many standard errors. Chance alone makes three of them, looked at often enough."""

SLOWER_S: Final = 0.005
"""A batch must take so much longer than the siblings': between fractions of milliseconds a factor means little."""


@dataclass(frozen=True, slots=True)
class EjectionLimits:
    """When a replica is ejected and for how long. Times in seconds, shares from 0 to 1."""

    enabled: bool = True
    window_s: float = 10.0
    min_calls: int = 10
    bad_share: float = 0.2
    slow_factor: float = 4.0
    interval_s: float = 2.0
    interval_max_s: float = 60.0
    max_share: float = 0.5


def ejection_limits(settings: EjectionSettings) -> EjectionLimits:
    return EjectionLimits(
        enabled=settings.enabled,
        window_s=settings.window_s,
        min_calls=settings.min_calls,
        bad_share=settings.bad_share,
        slow_factor=settings.slow_factor,
        interval_s=settings.interval_s,
        interval_max_s=settings.interval_max_s,
        max_share=settings.max_share,
    )


class Record:
    """What a replica did lately."""

    __slots__ = ("on_trial", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.on_trial = False
        """It was ejected, came back, and hasn't shown yet that it is well: fewer calls are enough to judge it."""


def mean_s(sums: Sums) -> float | None:
    """Mean time of a batch; None if there were too few. One hiccup isn't held against it: the slowest is left out."""
    return (sums.seconds - sums.slowest) / (sums.timed - 1) if sums.timed > 1 else None


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Finding(Generic[R]):
    """A replica that stands out."""

    record: R
    severity: tuple[int, float]
    """To be compared: bad calls are worse than slow ones."""
    why: str


def findings(among: Sequence[R], limits: EjectionLimits) -> list[Finding[R]]:
    """Whoever stands out among these, by the first thing that is wrong with it. Their windows are up to date.

    The whole window finds what is rare, its last part what has only begun: a good past doesn't excuse.
    """
    whole: list[Sums] = [record.window for record in among]
    if not any(sums.failures or sums.slowest >= SLOWER_S for sums in whole):
        return []  # the usual case, at little cost
    recent = [record.window.recent() for record in among]
    found = []
    for place, record in enumerate(among):
        enough = min(TRIAL_CALLS, limits.min_calls) if record.on_trial else limits.min_calls
        if (
            (wrong := _bad(whole, place, enough, limits.bad_share))
            or (wrong := _bad(recent, place, enough, limits.bad_share))
            or (wrong := _slow(whole, place, enough, limits.slow_factor))
            or (wrong := _slow(recent, place, enough, limits.slow_factor))
        ):
            found.append(Finding(record, *wrong))
    return found


_Wrong = tuple[tuple[int, float], str]
"""Severity, and why."""


def _bad(all_sums: Sequence[Sums], place: int, enough: int, bad_share: float) -> _Wrong | None:
    own = all_sums[place]
    if not own.failures or own.calls < enough:
        return None
    share = own.failures / own.calls
    if share < bad_share:
        return None
    siblings = [
        (sums.failures / sums.calls, sums.calls) for sums in all_sums if sums is not own and sums.calls >= TRIAL_CALLS
    ]
    # Of siblings that had no work nothing bad is known: the work had better go to them.
    sibling_share, sibling_calls = _middle(siblings) if siblings else (0.0, own.calls)
    chance = _standard_error(share, own.calls, sibling_share, sibling_calls)
    if share < WORSE_FACTOR * sibling_share or share - sibling_share < SIGMAS * chance:
        return None
    why = f"{own.failures} of {own.calls} calls went badly, of its siblings' {sibling_share:.0%}"
    return (1, share - sibling_share), why


def _slow(all_sums: Sequence[Sums], place: int, enough: int, slow_factor: float) -> _Wrong | None:
    own = all_sums[place]
    own_s = mean_s(own)
    if own_s is None or own_s < SLOWER_S or own.timed < enough:
        return None
    siblings = [
        sibling_s
        for sums in all_sums
        if sums is not own and sums.timed >= TRIAL_CALLS and (sibling_s := mean_s(sums)) is not None
    ]
    if not siblings:
        return None
    sibling_s = _middle(siblings)
    if own_s < slow_factor * sibling_s or own_s - sibling_s < SLOWER_S:
        return None
    why = f"a batch took {own_s * 1000:.1f} ms, its siblings' {sibling_s * 1000:.1f} ms"
    return (0, own_s / sibling_s if sibling_s else inf), why


T = TypeVar("T", float, tuple[float, int])


def _middle(values: Sequence[T]) -> T:
    """The median; of two in the middle the lower one, so that one of three can be seen to be worse than the best."""
    return sorted(values)[(len(values) - 1) // 2]


def _standard_error(share: float, calls: int, other_share: float, other_calls: int) -> float:
    """Of the difference between two shares, if both are the same share in truth."""
    pooled = (share * calls + other_share * other_calls) / (calls + other_calls)
    return sqrt(pooled * (1 - pooled) * (1 / calls + 1 / other_calls))
