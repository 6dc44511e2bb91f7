"""What was seen of each request, and the figures that make a scenario's row. Pure."""

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

QUIET_S = 2.0
"""So long all answers must be as in calm before a fault counts as overcome."""

SLOW_SHARE = 0.01
"""Of answers that are slow by themselves: machines have other things to do."""


class Kind(StrEnum):
    """What became of a request."""

    OK = "ok"
    DEGRADED = "degraded"
    WRONG = "wrong"  # another answer than the version gave in calm, a broken one, or NaN in it
    UNMARKED = "unmarked"  # by another version than the stable one, and passed off as its answer
    FAILED = "failed"  # an error status
    LOST = "lost"  # no answer: the connection broke, or the time was up


class Sample(NamedTuple):
    """One request. `took_s` counts from the moment it was due; `late_s` of it was the load's own lateness."""

    due_s: float
    took_s: float
    kind: Kind
    by: str = ""
    """Who answered, as `digits@v2`."""
    note: str = ""
    """Of a degraded answer what gave it (`cache`), of a failed one its status, of others what is wrong."""
    image: int = 0
    priority: int = 0
    late_s: float = 0.0

    @property
    def end_s(self) -> float:
        """When it was answered."""
        return self.due_s + self.took_s


class Check(NamedTuple):
    """Something that must hold beside the counts, and what was seen."""

    held: bool
    text: str


@dataclass(frozen=True)
class Figures:
    """A scenario's row."""

    requests: int
    kinds: dict[Kind, int]
    notes: dict[str, int]
    """Of all that wasn't `OK`: `degraded version`, `failed 503`, ..."""
    calm_p50_s: float
    calm_p99_s: float
    fault_p50_s: float
    fault_p99_s: float
    recoveries_s: list[float | None] = field(default_factory=list)
    """For each fault; 0.0 if nobody felt it, None if it wasn't overcome."""

    def count(self, *kinds: Kind) -> int:
        return sum(self.kinds.get(kind, 0) for kind in kinds)

    @property
    def recovery_s(self) -> float | None:
        """The longest one; None if any fault wasn't overcome."""
        longest = 0.0
        for recovery in self.recoveries_s:
            if recovery is None:
                return None
            longest = max(longest, recovery)
        return longest


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest rank: a value that was seen, at or below which lies that share of all. NaN without any."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def recovery(samples: Sequence[Sample], fault_s: float, *, fast_s: float, quiet_s: float = QUIET_S) -> float | None:
    """Seconds from the fault to the first moment from which all is good, fresh and fast for `quiet_s`.

    A request that gets no good answer spoils all of its way, from when it was due: as long as somebody waits in vain,
    nothing is well. Of slow answers one in a hundred is let pass. 0.0: nobody felt the fault. None: there is no such
    moment.
    """
    ordered = sorted(sample for sample in samples if sample.end_s >= fault_s)
    slow = _too_many(ordered, [sample for sample in ordered if sample.took_s > fast_s], around_s=quiet_s)
    begin_s = fault_s
    for sample in ordered:
        if sample.kind is Kind.OK and sample not in slow:
            continue
        if sample.due_s - begin_s >= quiet_s:
            break
        begin_s = max(begin_s, sample.end_s)
    seen_s = ordered[-1].due_s if ordered else fault_s
    return begin_s - fault_s if seen_s - begin_s >= quiet_s else None


def _too_many(ordered: Sequence[Sample], some: Sequence[Sample], *, around_s: float) -> set[Sample]:
    """Those of `some` in whose surroundings they are more than `SLOW_SHARE` of all."""
    dues = [sample.due_s for sample in ordered]
    some_dues = [sample.due_s for sample in some]

    def among(values: Sequence[float], sample: Sample) -> int:
        half = around_s / 2
        return bisect.bisect_right(values, sample.due_s + half) - bisect.bisect_left(values, sample.due_s - half)

    return {sample for sample in some if among(some_dues, sample) > max(1, SLOW_SHARE * among(dues, sample))}


def figures(
    samples: Sequence[Sample], *, hurt_from_s: float, faults_s: Sequence[float] = (), fast_s: float = math.inf
) -> Figures:
    """Calm is what was due before `hurt_from_s`; `faults_s` are those after which all shall be well again."""
    calm = [sample.took_s for sample in samples if sample.due_s < hurt_from_s]
    hurt = [sample.took_s for sample in samples if sample.due_s >= hurt_from_s]
    return Figures(
        requests=len(samples),
        kinds=dict(Counter(sample.kind for sample in samples)),
        notes=dict(Counter(f"{sample.kind} {sample.note}".strip() for sample in samples if sample.kind is not Kind.OK)),
        calm_p50_s=percentile(calm, 0.50),
        calm_p99_s=percentile(calm, 0.99),
        fault_p50_s=percentile(hurt, 0.50),
        fault_p99_s=percentile(hurt, 0.99),
        recoveries_s=[recovery(samples, fault, fast_s=fast_s) for fault in faults_s],
    )
