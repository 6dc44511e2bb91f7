"""The results file, and the figures that are made of it: medians over the rounds, and ratios within a round."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.bench.errors import BenchError

FILE = "results.json"
SCHEMA = 2


@dataclass(frozen=True)
class Sample:
    """One system under one load for a few seconds. Latency in ms; `cpu_s` and memory of the whole process tree.

    `rss_mb` is the peak of a sum that counts shared pages in every process, `pss_mb` counts them once, at the end.
    """

    round: int
    system: str
    workload: str
    connections: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_s: float | None = None
    rss_mb: float | None = None
    pss_mb: float | None = None

    @property
    def cpu_s_per_1000(self) -> float | None:
        """CPU seconds for 1000 requests."""
        return self.cpu_s / self.requests * 1000 if self.cpu_s is not None and self.requests else None


@dataclass(frozen=True)
class Failure:
    """A system that could not be measured in a round, and why."""

    round: int
    system: str
    reason: str


@dataclass
class Results:
    """One run: what was measured, on what, with which versions and settings."""

    started: str
    machine: dict[str, Any]
    versions: dict[str, dict[str, str]]
    settings: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def save(self, work: Path) -> None:
        """Whole or not at all: a reader never sees half a file."""
        temporary = work / f"{FILE}.new"
        temporary.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")
        temporary.replace(work / FILE)

    @classmethod
    def load(cls, work: Path) -> "Results":
        try:
            raw = json.loads((work / FILE).read_text())
        except FileNotFoundError:
            raise BenchError(f"no {FILE} in {work}; `run` makes it") from None
        except ValueError as error:
            raise BenchError(f"{work / FILE} is not JSON: {error}") from None
        if raw.pop("schema", None) != SCHEMA:
            raise BenchError(f"{work / FILE} was written by another version of the benchmark; `run` makes a new one")
        raw["samples"] = [Sample(**sample) for sample in raw["samples"]]
        raw["failures"] = [Failure(**failure) for failure in raw["failures"]]
        return cls(**raw)


@dataclass(frozen=True)
class Summary:
    """Medians over the rounds of one system under one load; `failed` is the sum. Latency in ms, None if no answer."""

    p50_ms: float | None
    p99_ms: float | None
    per_second: float
    failed: int
    cpu_s_per_1000: float | None
    rss_mb: float | None  # the highest of all rounds, as the next one is
    pss_mb: float | None


@dataclass(frozen=True)
class Ratio:
    """Ours divided by theirs: median, smallest and largest of the rounds."""

    middle: float
    low: float
    high: float


Key = tuple[str, str, int]  # system, payload, connections


def summarise(samples: Iterable[Sample]) -> dict[Key, Summary]:
    """One summary for each system, workload and number of connections."""
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.system, sample.workload, sample.connections), []).append(sample)
    return {key: _summary(group) for key, group in groups.items()}


def _summary(group: Sequence[Sample]) -> Summary:
    answered = [s for s in group if s.requests]  # no answer has no latency, least of all one of 0 ms
    costs = [s.cpu_s_per_1000 for s in group if s.cpu_s_per_1000 is not None]
    return Summary(
        p50_ms=median(s.p50_ms for s in answered) if answered else None,
        p99_ms=median(s.p99_ms for s in answered) if answered else None,
        per_second=median(s.per_second for s in group),
        failed=sum(s.failed for s in group),
        cpu_s_per_1000=median(costs) if costs else None,
        rss_mb=max((s.rss_mb for s in group if s.rss_mb is not None), default=None),
        pss_mb=max((s.pss_mb for s in group if s.pss_mb is not None), default=None),
    )


def ratio(samples: Iterable[Sample], ours: Key, theirs: Key, figure: str) -> Ratio | None:
    """`figure` of ours / theirs, taken within each round. None when no round has both, or theirs is zero."""
    values: dict[Key, dict[int, float]] = {ours: {}, theirs: {}}
    for sample in samples:
        key = (sample.system, sample.workload, sample.connections)
        value = None if figure.endswith("_ms") and not sample.requests else getattr(sample, figure)
        if key in values and value is not None:
            values[key][sample.round] = value
    both = [ours_value / values[theirs][r] for r, ours_value in values[ours].items() if values[theirs].get(r)]
    return Ratio(median(both), min(both), max(both)) if both else None
