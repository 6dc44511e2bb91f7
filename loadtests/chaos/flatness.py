"""Whether a system's processes stayed as they were: memory, open files, threads and how many they are. Pure.

Each kind of process is judged on its own. Not here: what growth is (`flat.py`), and the counting (`census.py`).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from loadtests.chaos import census
from loadtests.chaos.census import Counted
from loadtests.chaos.flat import Growth, growth, is_flat
from loadtests.chaos.spec import Flat
from loadtests.chaos.verdict import Verdict
from loadtests.resilience.table import duration

_WARM_UP_SHARE: Final = 0.2
_TOLD: Final = 3


class _Bound(NamedTuple):
    measure: str
    """A field of `census.Held`."""
    name: str
    unit: str
    most: float
    share: float = 0.0
    own: Mapping[str, int] = MappingProxyType({})
    """Kinds that have a bound of their own, and see to it."""


def flatness(must: Flat, counted: Sequence[Counted], *, seconds: float) -> list[Verdict]:
    """A verdict for each of the four."""
    warm_up_s = _warm_up_s(must, seconds)
    bounds = (
        _Bound("memory_mb", "memory", "MB", must.memory, must.memory_share),
        _Bound("handles", "open files", "", must.handles, own=must.handles_most),
        _Bound("threads", "threads", "", must.threads),
    )
    return [*(_of_kinds(bound, counted, warm_up_s) for bound in bounds), _numbers(must, counted, warm_up_s)]


def described(must: Flat, counted: Sequence[Counted], *, seconds: float) -> list[str]:
    """A line for each kind of process."""
    warm_up_s = _warm_up_s(must, seconds)
    found = []
    for kind in census.kinds(counted):
        of = {
            measure: growth(census.lines(counted, kind, measure), warm_up_s=warm_up_s)
            for measure in census.Held._fields
        }
        number = len(census.lines(counted, kind, "threads"))
        processes = f"{number} process" + ("es" if number > 1 else "")
        if (memory := of["memory_mb"]) is None:
            found.append(f"{kind}: {processes}, none lived long enough to be judged")
            continue
        more = [f"{_signed(each.grown)} {name}" for name, each in of.items() if each and name != "memory_mb"]
        found.append(
            f"{kind}: {_signed(memory.grown)} MB on {memory.level:.0f} MB, {', '.join(more)} "
            f"in {duration(memory.longest_s)} ({processes})"
        )
    return found


def _warm_up_s(must: Flat, seconds: float) -> float:
    return min(float(must.warm_up), _WARM_UP_SHARE * seconds)


def _of_kinds(bound: _Bound, counted: Sequence[Counted], warm_up_s: float) -> Verdict:
    grown = {
        kind: found
        for kind in census.kinds(counted)
        if (found := growth(census.lines(counted, kind, bound.measure), warm_up_s=warm_up_s)) is not None
    }
    unit = f" {bound.unit}" if bound.unit else ""
    or_share = f" or {bound.share:.0%}" if bound.share else ""
    promise = f"{bound.name} flat: no kind of process grows by more than {bound.most:g}{unit}{or_share}"
    if missing := [kind for kind in census.STAYING if kind not in grown]:
        return Verdict(promise, False, f"not seen for long enough: {', '.join(missing)}")
    ordered = sorted(grown, key=lambda kind: grown[kind].grown, reverse=True)
    judged = [kind for kind in ordered if kind not in bound.own]
    broken = [kind for kind in judged if not is_flat(grown[kind], most=bound.most, share=bound.share)]
    broken += [kind for kind, most in bound.own.items() if _highest(counted, kind, bound.measure) > most]
    said = "; ".join(_of_kind(kind, grown[kind], unit) for kind in (broken or judged[:1])[:_TOLD] if kind in grown)
    others = "".join(f", {kind} bounded by {most}" for kind, most in bound.own.items())
    return Verdict(promise, not broken, said if broken else f"most: {said}; {len(judged)} kinds{others}")


def _highest(counted: Sequence[Counted], kind: str, measure: str) -> float:
    return max((value for line in census.lines(counted, kind, measure) for _, value in line), default=0.0)


def _of_kind(kind: str, found: Growth, unit: str) -> str:
    return f"{kind} {_signed(found.grown)}{unit} on {found.level:.0f}{unit} in {duration(found.longest_s)}"


def _numbers(must: Flat, counted: Sequence[Counted], warm_up_s: float) -> Verdict:
    promise = f"number of processes flat: no more than {must.processes:g} more"
    found = growth([census.numbers(counted)], warm_up_s=warm_up_s)
    if found is None:
        return Verdict(promise, False, "not seen for long enough")
    said = f"{_signed(found.grown)} on {found.level:.0f} in {duration(found.longest_s)}"
    return Verdict(promise, is_flat(found, most=must.processes), said)


def _signed(value: float) -> str:
    return f"{value:+.1f}"
