"""Thousands of simulated rollouts, judged by all findings together as a rollout file without ``analysis`` has them.

The rules are those of ``serving.rollout.analysis``, written anew on whole arrays; tests/simulation/test_judgement.py
compares them with the real ``judged``, and runs a short form. Not here: single rules (``tests.micro.judgement``), the
page (``tests.micro.judgement_report``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log

import numpy as np
from numpy.typing import NDArray

from serving.rollout.analysis import OTHERS, comparison_alpha
from serving.rollout.burn_rate import BUCKETS, Budget, BurnRateRule
from serving.rollout.events import RULES
from serving.rollout.evidence import RELATIVE_RISKS, log_factors
from serving.rollout.spec import RolloutSpec, seconds
from tests.micro.judgement import CHUNK, NEVER, BudgetRule, Floats, Ints, Phase

EVENTS_AT_ONCE = 2_000_000
"""Bad events that are held at once: what this needs of memory."""

FINDINGS = ("relative", "burn_rate", "validity", "agreement")


@dataclass(frozen=True)
class Answers:
    """What is wrong with answers beside failing: of the canary's bad ones, and of those that are compared."""

    invalid: float = 0.0
    disagreeing: float = 0.0


@dataclass(frozen=True)
class Seen:
    """Of each rollout: when evidence was enough (in requests), and counts for each second."""

    proven_at: Floats
    attempts: Ints
    bad: Ints
    invalid: Ints
    stable_attempts: Ints
    stable_bad: Ints
    compared: Ints
    disagreed: Ints

    def joined(self, later: Seen, begin: float) -> Seen:
        def both(one: Ints, other: Ints) -> Ints:
            return np.concatenate([one, other], axis=1)

        return Seen(
            np.minimum(self.proven_at, later.proven_at + begin),
            both(self.attempts, later.attempts),
            both(self.bad, later.bad),
            both(self.invalid, later.invalid),
            both(self.stable_attempts, later.stable_attempts),
            both(self.stable_bad, later.stable_bad),
            both(self.compared, later.compared),
            both(self.disagreed, later.disagreed),
        )


def shipped_decides(
    phases: Sequence[Phase],
    spec: RolloutSpec,
    *,
    rollouts: int,
    rate: int,
    seed: int,
    answers: Answers = Answers(),
) -> dict[str, Floats]:
    """For each finding, the request after which each rollout is taken back by it, or NEVER; ``all`` is the first.

    Evidence is looked at after every bad event, the others after every second. At a weight of 1 there is no stable
    version beside the canary. The last second of a phase may be a short one.
    """
    rng = np.random.default_rng(seed)
    most = max(sum(_most(phase) for phase in phases), 1)
    chunk = max(min(CHUNK, rollouts, EVENTS_AT_ONCE // most), 1)
    parts = []
    for start in range(0, rollouts, chunk):
        seen = seen_of(phases, spec, min(chunk, rollouts - start), rate, rng=rng, answers=answers)
        parts.append(found_in(phases, spec, seen, rate))
    found = {what: np.concatenate([part[what] for part in parts]) for what in FINDINGS}
    return {"all": np.minimum.reduce(list(found.values())), **found}


def found_in(phases: Sequence[Phase], spec: RolloutSpec, seen: Seen, rate: int) -> dict[str, Floats]:
    analysis = spec.analysis
    alpha = analysis.alpha * OTHERS
    stretches = list(_stretches(phases, rate))
    validity = np.zeros(seen.bad.shape, dtype=bool)
    weights = sum(step.set_weight is not None for step in spec.steps)
    for begin, end, _ in stretches:
        if not seen.invalid.any():
            break
        here = slice(begin, end)
        logs = log_share(
            seen.invalid[:, here].cumsum(axis=1), seen.attempts[:, here].cumsum(axis=1), analysis.invalid_max
        )
        validity[:, here] = logs >= log((weights + 1) / alpha)
    agreement = np.zeros(seen.bad.shape, dtype=bool)
    if (shadow := analysis.shadow) is not None:
        compared = seen.compared.cumsum(axis=1)
        logs = log_share(seen.disagreed.cumsum(axis=1), compared, 1 - shadow.agreement)
        agreement = (logs >= log(1 / alpha)) & (compared >= shadow.min_compared)
    burn = np.zeros(seen.bad.shape, dtype=bool)
    if (
        stretches[-1][2] == 1
    ):  # beside stable, the budget is bad only after the comparison, unless keys are bad again and again
        begin = stretches[-1][0]
        rule = budget_rule(spec)
        fires = rule.fires(seen.attempts, seen.bad)[:, begin:]
        some = np.flatnonzero(fires.any(axis=1))
        burn[some, begin:] = fires[some] & overspent(
            rule, seen.attempts[some, begin:], seen.bad[some, begin:], alpha / 2
        )
    return {
        "relative": seen.proven_at,
        "burn_rate": _first(burn, rate),
        "validity": _first(validity, rate),
        "agreement": _first(agreement, rate),
    }


def budget_rule(spec: RolloutSpec, *, beside: bool = False) -> BudgetRule:
    """The budget of a rollout file, as single rules are simulated."""
    slo = spec.analysis.slo
    rules = tuple(BurnRateRule(seconds(rule.long), seconds(rule.short), rule.factor) for rule in slo.burn_rates)
    return BudgetRule(Budget(slo.objective), rules, slo.min_bad_events, beside)


def overspent(budget: BudgetRule, attempts: Ints, bad: Ints, alpha: float) -> NDArray[np.bool_]:
    """``serving.rollout.burn_rate.overspent`` after each second."""
    proven = np.zeros(bad.shape, dtype=bool)
    all_attempts, all_bad = (
        np.concatenate([np.zeros((len(counts), 1), dtype=np.int64), counts.cumsum(axis=1)], axis=1)
        for counts in (attempts, bad)
    )
    for rule in budget.rules:
        limit = rule.factor * budget.budget.share
        numbers = np.floor(np.arange(1, bad.shape[1] + 1) * BUCKETS / rule.long_s).astype(np.int64)
        total = log_share(all_bad[:, 1:], all_attempts[:, 1:], limit) - log(2)
        for back in range(BUCKETS):
            first = np.maximum(numbers - back, 0)
            start = np.searchsorted(numbers, first, side="left")
            since = log_share(all_bad[:, 1:] - all_bad[:, start], all_attempts[:, 1:] - all_attempts[:, start], limit)
            since -= log(2) + np.log(first + 1) + np.log(first + 2)
            total = np.where(numbers - back >= 0, np.logaddexp(total, since), total)
        proven |= total >= log(len(budget.rules) / alpha)
    return proven


def log_share(count: Ints, total: Ints, limit: float) -> Floats:
    """``serving.rollout.evidence.log_share_e_value``."""
    own, others = zip(*(log_factors(risk, limit) for risk in RELATIVE_RISKS), strict=True)
    return _log_mean_exp([count * one + (total - count) * other for one, other in zip(own, others, strict=True)])


def seen_of(
    phases: Sequence[Phase],
    spec: RolloutSpec,
    rollouts: int,
    rate: int,
    *,
    rng: np.random.Generator,
    answers: Answers,
) -> Seen:
    products = np.zeros((rollouts, len(RELATIVE_RISKS)))
    seen: Seen | None = None
    begin = 0.0
    for phase in phases:
        played = _played(phase, spec, rate, rng=rng, products=products, answers=answers)
        seen = played if seen is None else seen.joined(played, begin)
        begin += phase.requests
    assert seen is not None, "no phases"
    return seen


def _played(
    phase: Phase,
    spec: RolloutSpec,
    rate: int,
    *,
    rng: np.random.Generator,
    products: Floats,
    answers: Answers,
) -> Seen:
    """One phase; writes to ``products``. The bad events are drawn one by one, the good ones by the second."""
    rollouts, length = len(products), _seconds(phase, rate)
    requests = np.full(length, rate)
    requests[-1] -= length * rate - phase.requests
    both = phase.weight * phase.canary + (1 - phase.weight) * phase.stable
    when = np.cumsum(rng.geometric(both, (rollouts, _most(phase))), axis=1) if both else np.full((rollouts, 1), 1 << 40)
    within = when <= phase.requests
    assert not within[:, -1].any(), "more bad events than were drawn"
    canarys = (rng.random(when.shape) < phase.weight * phase.canary / max(both, 1e-300)) & within
    proven_at = np.full(rollouts, NEVER)
    if 0 < phase.weight < 1:
        proven_at = _proven_at(phase, spec, when=when, canarys=canarys, within=within, products=products)
    place = np.arange(rollouts)[:, None] * length + (when - 1) // rate

    def by_second(events: NDArray[np.bool_]) -> Ints:
        return np.bincount(place[events], minlength=rollouts * length).reshape(rollouts, length).astype(np.int64)

    bad, others = by_second(canarys), by_second(within & ~canarys)
    good = phase.weight * (1 - phase.canary) / max(1 - both, 1e-300)
    attempts = bad + rng.binomial(requests - bad - others, min(good, 1.0))
    shadow = spec.analysis.shadow
    compared = rng.binomial(requests - attempts, 0.0 if shadow is None else shadow.share)
    return Seen(
        proven_at,
        attempts,
        bad,
        rng.binomial(bad, answers.invalid),
        requests - attempts,
        others,
        compared,
        rng.binomial(compared, answers.disagreeing),
    )


def _proven_at(
    phase: Phase,
    spec: RolloutSpec,
    *,
    when: Ints,
    canarys: NDArray[np.bool_],
    within: NDArray[np.bool_],
    products: Floats,
) -> Floats:
    """When there is enough evidence, which comes with a bad event of the canary. Writes to ``products``."""
    own, all_bad = canarys.cumsum(axis=1), within.cumsum(axis=1)
    worth = [log_factors(risk, phase.weight) for risk in RELATIVE_RISKS]
    logs = [
        products[:, place, None] + own * canary + (all_bad - own) * stable
        for place, (canary, stable) in enumerate(worth)
    ]
    products[:] = np.stack([each[:, -1] for each in logs], axis=1)
    hit = (_log_mean_exp(logs) >= log(1 / comparison_alpha(spec, RULES))) & canarys
    return np.where(hit.any(axis=1), when[np.arange(len(when)), hit.argmax(axis=1)].astype(np.float64), NEVER)


def _seconds(phase: Phase, rate: int) -> int:
    return -(-phase.requests // rate)


def _most(phase: Phase) -> int:
    """Bad events that a phase has at most, but for chances of one in a thousand millions."""
    mean = phase.requests * (phase.weight * phase.canary + (1 - phase.weight) * phase.stable)
    return min(int(mean + 7 * mean**0.5 + 30), phase.requests + 1)


def _stretches(phases: Sequence[Phase], rate: int) -> Iterator[tuple[int, int, float]]:
    """Seconds with one weight: from, to, and the weight."""
    begin = 0
    for weight, together in groupby(phases, key=lambda phase: phase.weight):
        end = begin + sum(_seconds(phase, rate) for phase in together)
        yield begin, end, weight
        begin = end


def _log_mean_exp(logs: list[Floats]) -> Floats:
    largest = np.maximum.reduce(logs)
    mean: Floats = largest + np.log(sum(np.exp(each - largest) for each in logs) / len(logs))
    return mean


def _first(true: NDArray[np.bool_], rate: int) -> Floats:
    return np.where(true.any(axis=1), true.argmax(axis=1) + 1.0, NEVER) * rate
