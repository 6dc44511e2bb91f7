"""What clients saw of a rollout, out of the samples of a load: who answered when, who was right, who kept its version.

Pure. Not here: the load itself (`loadtests.resilience.load`).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from loadtests.resilience.figures import Kind, Sample

USERS: Final = 97
"""So many stickiness keys take turns: a prime, so that each key comes with each image."""
SETTLE_S: Final = 1.0
"""So long gateways may disagree on a weight: one has the new table, the other will have it in a moment."""


def sticky_key(index: int) -> str | None:
    """The stickiness key of the request that is due as number `index`; every other one has none."""
    return f"user-{index // 2 % USERS}" if index % 2 else None


def index_of(sample: Sample, rate: float) -> int:
    """Which request of a steady load it was."""
    return round(sample.due_s * rate)


def last_answer_s(samples: Sequence[Sample], version: str) -> float | None:
    """When this version (`digits@v2`) answered for the last time, on the load's clock."""
    return max((sample.end_s for sample in samples if sample.by == version), default=None)


def by_whom(samples: Sequence[Sample]) -> dict[str, int]:
    """How many answers each version gave."""
    counts: dict[str, int] = {}
    for sample in samples:
        if sample.by:
            counts[sample.by] = counts.get(sample.by, 0) + 1
    return counts


class Moved(NamedTuple):
    """Stickiness keys that met the canary, and how many answers of the prior version they got after that."""

    keys: int
    back: int


def moved_back(samples: Sequence[Sample], canary: str, *, rate: float, until_s: float) -> Moved:
    """Only answers that were due before `until_s` count: after a rollback everyone goes back."""
    first: dict[str, float] = {}
    ordered = sorted(
        (sample for sample in samples if sample.due_s < until_s and sample.kind is Kind.OK),
        key=lambda sample: sample.due_s,
    )
    back = 0
    for sample in ordered:
        key = sticky_key(index_of(sample, rate))
        if key is None:
            continue
        if sample.by == canary:
            first.setdefault(key, sample.due_s)
        elif key in first and sample.due_s > first[key] + SETTLE_S:
            back += 1
    return Moved(len(first), back)


def accuracy(
    samples: Sequence[Sample], said: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], truth: Sequence[int]
) -> dict[str, float]:
    """The share of right digits among each version's good answers. `said`: what it says of each image."""
    right: dict[str, list[bool]] = {}
    for sample in samples:
        if sample.kind is Kind.OK and sample.by in said:
            hit = round(said[sample.by][sample.image]["label"][0]) == truth[sample.image]
            right.setdefault(sample.by, []).append(hit)
    return {version: sum(hits) / len(hits) for version, hits in sorted(right.items())}
