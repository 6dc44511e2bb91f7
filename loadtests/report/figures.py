"""What the tables say, from the samples and the faults. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loadtests.report.bins import ANSWERED, quantile
from loadtests.report.record import OUTCOMES, Fault, Sample

ECHO_S = 5.0
"""How long a fault without an end counts: something was killed at a moment, and missed for a while."""
CALM, DURING, BETWEEN, AFTER = "calm", "during faults", "between faults", "after faults"
PHASES = (CALM, DURING, BETWEEN, AFTER)


@dataclass(frozen=True)
class Latency:
    """In ms; NaN if there is nothing to measure."""

    number: int
    p50: float
    p90: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Effect:
    """What came of a fault, until the next one began."""

    fault: Fault
    counts: Counter[str]
    trouble_s: float | None
    """From its beginning until the last request was due that got no ordinary answer; None if all did."""


@dataclass(frozen=True)
class Figures:
    counts: Counter[str]
    phases: dict[str, Latency]
    """Of answers, in each phase that there was."""
    refusals: dict[str, Latency]
    """Of shed requests, likewise."""
    whole: Latency
    versions: list[tuple[str, str, Counter[str]]]
    """Model, version and its outcomes."""
    effects: list[Effect]

    @property
    def requests(self) -> int:
        return self.counts.total()

    @property
    def answers(self) -> int:
        return self.counts["ok"] + self.counts["degraded"]

    def p99(self, phase: str) -> float:
        found = self.phases.get(phase)
        return found.p99 if found else math.nan


def windows(faults: Iterable[Fault]) -> list[tuple[float, float]]:
    """When a fault was at work, without overlaps."""
    merged: list[tuple[float, float]] = []
    for fault in sorted(faults, key=lambda each: each.at_s):
        end = fault.at_s + ECHO_S if fault.until_s is None else fault.until_s
        if merged and fault.at_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((fault.at_s, end))
    return merged


def phase(sample: Sample, starts: Sequence[float], ends: Sequence[float]) -> str:
    """A request that was still open when a fault began was under way during it."""
    done = sample.due_s if math.isnan(sample.done_s) else sample.done_s
    next_one = bisect_left(ends, sample.due_s)
    if next_one == len(ends):
        return AFTER if ends else CALM
    if done >= starts[next_one]:
        return DURING
    return BETWEEN if next_one else CALM


def latency(values_ms: list[float]) -> Latency:
    values_ms.sort()
    longest = values_ms[-1] if values_ms else math.nan
    p50, p90, p99 = (quantile(values_ms, wanted) for wanted in (0.5, 0.9, 0.99))
    return Latency(len(values_ms), p50, p90, p99, longest)


def figures(samples: Sequence[Sample], faults: Sequence[Fault]) -> Figures:
    spans = windows(faults)
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    counts: Counter[str] = Counter()
    answered: dict[str, list[float]] = {}
    refused: dict[str, list[float]] = {}
    versions: dict[tuple[str, str], Counter[str]] = {}
    for sample in samples:
        counts[sample.outcome] += 1
        versions.setdefault((sample.model, sample.version), Counter())[sample.outcome] += 1
        if not math.isnan(sample.done_s) and (sample.outcome in ANSWERED or sample.outcome == "shed"):
            kind = answered if sample.outcome in ANSWERED else refused
            kind.setdefault(phase(sample, starts, ends), []).append(sample.latency_ms)
    whole = latency([value for values in answered.values() for value in values])
    return Figures(
        counts=counts,
        phases={name: latency(answered[name]) for name in PHASES if name in answered},
        refusals={name: latency(refused[name]) for name in PHASES if name in refused},
        whole=whole,
        versions=[(*key, versions[key]) for key in sorted(versions)],
        effects=effects(samples, faults),
    )


def effects(samples: Sequence[Sample], faults: Sequence[Fault]) -> list[Effect]:
    """Each request that got no ordinary answer counts for the last fault that had begun when it was due.

    One that was due before the first fault and still open when that began counts for it. A client that gives up is no
    trouble.
    """
    ordered = sorted(faults, key=lambda each: each.at_s)
    starts = [fault.at_s for fault in ordered]
    counts: list[Counter[str]] = [Counter() for _ in ordered]
    last: list[float | None] = [None] * len(ordered)
    for sample in samples:
        if sample.outcome == "ok" or sample.outcome == "cancelled":
            continue
        done = sample.due_s if math.isnan(sample.done_s) else sample.done_s
        number = bisect_right(starts, sample.due_s) - 1
        if number < 0:
            number = 0 if starts and done >= starts[0] else -1
        if number >= 0:
            counts[number][sample.outcome] += 1
            last[number] = max(last[number] or 0.0, sample.due_s - starts[number], 0.0)
    return [Effect(*each) for each in zip(ordered, counts, last, strict=True)]


def outcomes(counts: Counter[str]) -> list[tuple[str, int]]:
    """Those that occurred, in the order of the legend."""
    return [(outcome, counts[outcome]) for outcome in OUTCOMES if counts[outcome]]
