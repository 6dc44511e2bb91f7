"""Thousands of simulated rollouts and when each rule would have taken them back; numbers for docs/judgement.md.

Not a test: tests/simulation/test_judgement.py is, and runs a short form of this. The formula of the evidence is that of
``serving.rollout.evidence``; what is written anew here, so that it runs on whole arrays, is compared with the real
functions there. ``python -m tests.micro.judgement_report`` writes the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from serving.rollout.burn_rate import BUCKETS, Budget, BurnRateRule
from serving.rollout.evidence import RELATIVE_RISKS, log_factors

NEVER = np.inf
BLOCK = 256
"""Bad events that are drawn at once for each rollout."""

CHUNK = 1000
"""Rollouts that are drawn at once."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Factors = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Phase:
    """So many requests at one weight. ``canary`` and ``stable``: the share of their attempts that is bad."""

    requests: int
    weight: float
    canary: float
    stable: float = 0.005
    cluster: int = 1
    """Bad attempts that go to the same variant together and are counted one by one: sticky keys, counted wrongly."""


def evidence_decides(
    phases: Sequence[Phase],
    *,
    rollouts: int,
    alpha: float,
    seed: int,
    afresh: bool = False,
    factors: Factors = log_factors,
) -> Floats:
    """The request at which each rollout is found bad by evidence, looked at after every bad event; or NEVER.

    ``afresh``: each step, that is each change of weight, is judged by itself, with its share of alpha.
    """
    rng = np.random.default_rng(seed)
    new_step = [place == 0 or phase.weight != phases[place - 1].weight for place, phase in enumerate(phases)]
    enough = log((sum(new_step) if afresh else 1) / alpha)
    parts = []
    for start in range(0, rollouts, CHUNK):
        count = min(CHUNK, rollouts - start)
        decided, products, begin = np.full(count, NEVER), np.zeros((count, len(RELATIVE_RISKS))), 0
        for phase, new in zip(phases, new_step, strict=True):
            if afresh and new:
                products = np.zeros_like(products)
            _play(phase, begin, rng=rng, decided=decided, products=products, enough=enough, factors=factors)
            begin += phase.requests
        parts.append(decided)
    return np.concatenate(parts)


def _play(
    phase: Phase,
    begin: int,
    *,
    rng: np.random.Generator,
    decided: Floats,
    products: Floats,
    enough: float,
    factors: Factors,
) -> None:
    """One phase of a chunk of rollouts; writes to ``decided`` and ``products``.

    Only bad attempts carry evidence, so only they are drawn: how many requests later the next one comes, and whose.
    """
    bad = phase.weight * phase.canary + (1 - phase.weight) * phase.stable
    own, others = (np.array(logs) for logs in zip(*(factors(r, phase.weight) for r in RELATIVE_RISKS), strict=True))
    active = np.flatnonzero(decided == NEVER)
    at = np.full(len(active), float(begin))
    while len(active):
        when = at[:, None] + np.cumsum(rng.geometric(bad / phase.cluster, (len(active), BLOCK)), axis=1)
        canarys = rng.random(when.shape) < phase.weight * phase.canary / bad
        within = when <= begin + phase.requests
        owns = phase.cluster * np.cumsum(canarys & within, axis=1)
        rest = phase.cluster * np.cumsum(~canarys & within, axis=1)
        logs = [
            products[active, place, None] + owns * own[place] + rest * others[place]
            for place in range(len(RELATIVE_RISKS))
        ]
        largest = np.maximum.reduce(logs)
        total = largest + np.log(sum(np.exp(each - largest) for each in logs) / len(logs))
        hit = (total >= enough) & within
        first = hit.argmax(axis=1)
        found = hit.any(axis=1)
        decided[active[found]] = when[found, first[found]]
        products[active] = np.stack([each[:, -1] for each in logs], axis=1)
        going_on = ~found & within[:, -1]
        active, at = active[going_on], when[going_on, -1]


@dataclass(frozen=True)
class Traffic:
    """Counts for each rollout and each second."""

    canary_attempts: Ints
    canary_bad: Ints
    stable_attempts: Ints
    stable_bad: Ints
    rate: int


def traffic(phases: Sequence[Phase], *, rollouts: int, rate: int, rng: np.random.Generator) -> Traffic:
    seconds = [round(phase.requests / rate) for phase in phases]
    weight, canary, stable = (
        np.repeat([getattr(phase, name) for phase in phases], seconds) for name in ("weight", "canary", "stable")
    )
    shape = (rollouts, sum(seconds))
    attempts = rng.binomial(rate, weight, shape)
    others = rate - attempts
    return Traffic(attempts, rng.binomial(attempts, canary), others, rng.binomial(others, stable), rate)


@dataclass(frozen=True)
class ThresholdRule:
    """As Flagger's analysis: a success rate under ``success`` is a failed check, and failed checks add up.

    See https://docs.flagger.app/usage/how-it-works and, for the adding up, its ``pkg/controller/scheduler.go``: a good
    check takes none back, and the run after the last failed check rolls back.
    """

    interval_s: int
    failed_checks: int = 5
    success: float = 0.99

    def decides(self, seen: Traffic) -> Floats:
        whole = seen.canary_bad.shape[1] // self.interval_s * self.interval_s
        attempts, bad = (
            counts[:, :whole].reshape(len(counts), -1, self.interval_s).sum(axis=2)
            for counts in (seen.canary_attempts, seen.canary_bad)
        )
        failed = np.cumsum(bad > (1 - self.success) * attempts + 1e-9, axis=1) >= self.failed_checks
        runs = np.where(failed.any(axis=1), failed.argmax(axis=1) + 2.0, NEVER)
        return runs * self.interval_s * seen.rate


@dataclass(frozen=True)
class BudgetRule:
    """``serving.rollout.burn_rate`` on whole arrays. ``beside``: it says nothing while stable burns as well."""

    budget: Budget
    rules: tuple[BurnRateRule, ...]
    min_bad: int
    beside: bool = False

    def decides(self, seen: Traffic) -> Floats:
        fires = self.fires(seen.canary_attempts, seen.canary_bad)
        if self.beside:
            fires &= ~self.shared(seen.stable_attempts, seen.stable_bad)
        return np.where(fires.any(axis=1), fires.argmax(axis=1) + 1.0, NEVER) * seen.rate

    def fires(self, attempts: Ints, bad: Ints) -> NDArray[np.bool_]:
        fired = np.zeros(bad.shape, dtype=bool)
        for rule in self.rules:
            long_rate, long_bad = self._rate(attempts, bad, rule.long_s)
            short_rate, _ = self._rate(attempts, bad, rule.short_s)
            fired |= (np.minimum(long_rate, short_rate) > rule.factor) & (long_bad >= self.min_bad)
        return fired

    def shared(self, attempts: Ints, bad: Ints) -> NDArray[np.bool_]:
        """Whether stable burns at half a factor. The weight is constant here, so its windows are the canary's."""
        burns = np.zeros(bad.shape, dtype=bool)
        for rule in self.rules:
            long_rate, long_bad = self._rate(attempts, bad, rule.long_s)
            short_rate, _ = self._rate(attempts, bad, rule.short_s)
            burns |= (np.maximum(long_rate, short_rate) > rule.factor / 2) & (long_bad >= self.min_bad)
        return burns

    def _rate(self, attempts: Ints, bad: Ints, span_s: float) -> tuple[Floats, Ints]:
        """The burn rate in a window, and the bad events in it, after each second."""
        numbers = np.floor(np.arange(1, bad.shape[1] + 1) * BUCKETS / span_s)
        begin = np.searchsorted(numbers, numbers - BUCKETS + 1, side="left")
        all_in, bad_in = (_sums(counts, begin) for counts in (attempts, bad))
        return bad_in / np.maximum(all_in, 1) / self.budget.share, bad_in


def _sums(counts: Ints, begin: NDArray[np.intp]) -> Ints:
    """Sums from ``begin`` of each second to that second."""
    up_to = np.concatenate([np.zeros((len(counts), 1), dtype=np.int64), np.cumsum(counts, axis=1)], axis=1)
    sums: Ints = up_to[:, 1:] - up_to[:, begin]
    return sums


Rule = ThresholdRule | BudgetRule


def rules_decide(
    phases: Sequence[Phase], rules: Sequence[Rule], *, rollouts: int, rate: int, seed: int
) -> list[Floats]:
    """For each rule, the request at which it takes each rollout back, or NEVER. All rules see the same traffic."""
    rng = np.random.default_rng(seed)
    found: list[list[Floats]] = [[] for _ in rules]
    for start in range(0, rollouts, CHUNK):
        seen = traffic(phases, rollouts=min(CHUNK, rollouts - start), rate=rate, rng=rng)
        for place, rule in enumerate(rules):
            found[place].append(rule.decides(seen))
    return [np.concatenate(parts) for parts in found]
