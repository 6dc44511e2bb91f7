"""What the counts of a rollout say about the canary: findings, each with a reason in one sentence. Pure.

Everything here may be looked at after every event, as often as anyone likes: the chance that a canary that is no worse
is ever found bad stays under ``alpha`` for the whole life of an ``EProcess``, for each kind of finding by itself. How a
rollout's alpha is shared between the kinds stands in ``serving.rollout.analysis``.

**Formula.** Bad first attempts come one after the other. The split is random, so under "the canary is no worse" the
next one is the canary's with a probability of at most its weight ``w`` at that moment, whatever the rate of bad ones
is and however it moves. Against that stands "the canary's attempts are r times as likely to be bad". The likelihood
ratio of one bad event is ``r / (1 - w + r*w)`` if it was the canary's, ``1 / (1 - w + r*w)`` if it was stable's. Its
mean under the first hypothesis is at most 1, so the products of all ratios, and their mean over several r, are a
non-negative supermartingale that starts at 1. By Ville's inequality such a thing reaches ``1/alpha`` with a
probability of at most ``alpha``, ever. Sources: Lindon and Malek, "Anytime-Valid Inference for Multinomial Count
Data" (arXiv 2011.03567: inhomogeneous Bernoulli processes under a known random assignment); Lindon, Sanden and
Shirikian, "Rapid Regression Detection in Software Deployments through Sequential Testing" (arXiv 2205.14762). They
mix over a continuous prior; a few fixed r do as well here and need no special functions.

**What the caller must count**, or the bound breaks:

- *Only randomised first attempts.* A retry, a hedge, a mirrored request or a fallback goes where it goes because
  something happened before. It is no throw of the coin.
- *The unit that was randomised.* With sticky keys that is the key: its requests all go the same way, and one key
  whose every request fails would look like a hundred independent throws. Count a key's first bad attempt in this
  rollout and none of its later ones; counting each key once *per window* is not enough. Requests without a key are
  units themselves.
- *Every way to end, of both variants alike.* An attempt that the variant's own open breaker refused is bad, too: it
  was thrown, and would have failed. Otherwise, in an outage that hits both, stable's breaker opens first (it sees more
  traffic), stable's bad events vanish, and the canary's remain.
- *With the weight of the throw.* An attempt belongs to the weight under which it was routed. If weights differ
  within a window (it spans a step, gateways switch one by one, a slow attempt ends late), give the largest: more
  weight than there was only makes the evidence weaker.

Not here: the error budget (``serving.rollout.burn_rate``), what to do about a finding (``serving.rollout.decide``).
Evidence weighs all that an ``EProcess`` has seen, so a canary that has been well for long needs longer to be found
bad. Whoever wants each step judged afresh starts a new one there, with its share of alpha: their sum is what counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import exp, log, log1p
from typing import Final, Literal

import msgspec

RELATIVE_RISKS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""How many times as likely to be bad the canary's attempts may be. All have an equal share of the evidence."""

MAX_WEIGHTS: Final = 32
"""Weights that are kept apart. Steps are fewer; this bounds the state of a rollout that is moved by hand for days."""

E_MAX: Final = 1e300
"""The largest e-value that is told: JSON has no infinity."""


class VariantCounts(msgspec.Struct, frozen=True):
    """Randomised first attempts of one variant, and how they ended.

    ``bad`` are errors, timeouts, ``slow`` and ``invalid`` answers together, each attempt once. ``repeated`` are bad
    attempts of keys that had been bad before: not among ``bad`` and no evidence, but they use up the error budget.
    """

    attempts: int = 0
    bad: int = 0
    slow: int = 0
    invalid: int = 0
    repeated: int = 0

    def plus(self, other: VariantCounts) -> VariantCounts:
        return VariantCounts(
            self.attempts + other.attempts,
            self.bad + other.bad,
            self.slow + other.slow,
            self.invalid + other.invalid,
            self.repeated + other.repeated,
        )


class Observation(msgspec.Struct, frozen=True):
    """What all gateways counted in one window of time. ``at`` is only a record: durations are in ``seconds``."""

    at: float
    seconds: float
    weight: float
    canary: VariantCounts
    stable: VariantCounts
    shadow_compared: int = 0
    shadow_agreed: int = 0
    gateways: int = 0
    gateways_reporting: int = 0


class Finding(msgspec.Struct, frozen=True):
    """One judgement. ``bad`` speaks against the canary; ``no_data`` and ``error`` speak only of what is known."""

    kind: Literal["good", "bad", "no_data", "error"]
    what: str
    why: str
    value: float | None = None
    threshold: float | None = None


class Tally(msgspec.Struct, frozen=True):
    """Bad events at one weight of the canary."""

    weight: float
    canary: int
    stable: int


class EProcess(msgspec.Struct, frozen=True):
    """All that was seen. It holds counts, not products, so it is exact on every machine and in whatever order.

    ``tallies`` are sorted by weight and at most ``MAX_WEIGHTS``; a weight of 0 or 1 leaves nothing to chance, so
    nothing is kept of it. The other fields are sums over all observations.
    """

    tallies: tuple[Tally, ...] = ()
    canary: VariantCounts = VariantCounts()
    stable: VariantCounts = VariantCounts()
    compared: int = 0
    agreed: int = 0

    @property
    def log_products(self) -> tuple[float, ...]:
        """For each relative risk, the logarithm of the product of all likelihood ratios."""
        return _log_products(self.tallies)


def observed(process: EProcess, observation: Observation) -> EProcess:
    """The process after one more observation. Raises ValueError if the weight is none."""
    weight, canary, stable = observation.weight, observation.canary, observation.stable
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}, must be from 0 to 1")
    tallies = process.tallies
    if 0 < weight < 1 and (canary.bad or stable.bad):
        tallies = _with(tallies, Tally(weight, canary.bad, stable.bad))
    return EProcess(
        tallies,
        process.canary.plus(canary),
        process.stable.plus(stable),
        process.compared + observation.shadow_compared,
        process.agreed + observation.shadow_agreed,
    )


def log_factors(risk: float, weight: float) -> tuple[float, float]:
    """Logarithms of the likelihood ratios of one bad event: if it was the canary's, and if it was stable's."""
    stable = -log1p(weight * (risk - 1))
    return log(risk) + stable, stable


def log_e_value(process: EProcess) -> float:
    """The logarithm of the e-value, which has no bounds."""
    return log_mean_exp(process.log_products)


def e_value(process: EProcess) -> float:
    """Evidence that the canary is worse: 1 says nothing, ``1/alpha`` is enough. At most ``E_MAX``."""
    return _told(log_e_value(process))


def log_share_e_value(count: int, total: int, limit: float) -> float:
    """The logarithm of the evidence that ``count`` of ``total`` throws are more than a share ``limit`` explains."""
    return log_mean_exp(_log_products((Tally(limit, count, total - count),)))


def log_mean_exp(logs: Sequence[float]) -> float:
    """The logarithm of the mean of what ``logs`` are the logarithms of, without ever holding one of these."""
    largest = max(logs)
    return largest + log(sum(exp(value - largest) for value in logs) / len(logs))


def relative(process: EProcess, alpha: float) -> Finding:
    """Has the canary more bad first attempts than its weight explains?"""
    what, threshold = "relative", _threshold(alpha)
    if not process.canary.attempts:
        return Finding("no_data", what, "the canary had no first attempts yet", None, threshold)
    if not process.stable.attempts:
        return Finding("no_data", what, "stable had no first attempts to compare the canary's with", None, threshold)
    value = e_value(process)
    own = sum(tally.canary for tally in process.tallies)
    both = own + sum(tally.stable for tally in process.tallies)
    expected = sum(tally.weight * (tally.canary + tally.stable) for tally in process.tallies)
    why = (
        f"{own} of {both} bad first attempts were the canary's and its weight explains {expected:.3g}: "
        f"evidence {_figure(value)} against it, {_figure(threshold)} is enough"
    )
    return Finding("bad" if value >= threshold else "good", what, why, _rounded(value), threshold)


def validity(counts: VariantCounts, *, limit: float, alpha: float, minimum: int = 1) -> Finding:
    """Are more than a share ``limit`` of the answers invalid? A limit of 0 allows none."""
    what = "of the first attempts got an invalid answer"
    return _share("validity", what, counts.invalid, counts.attempts, limit=limit, alpha=alpha, minimum=minimum)


def agreement(compared: int, agreed: int, floor: float, minimum: int, *, alpha: float = 0.01) -> Finding:
    """Do mirrored answers agree less often than ``floor``? Under ``minimum`` comparisons there is no judgement.

    Each comparison is taken as one throw. If most of the traffic is the same input over and over, it is one
    disagreement over and over: mirror a sample of what differs.
    """
    what = "of the compared answers disagreed"
    limit = _rounded(1 - floor)
    found = _share("agreement", what, compared - agreed, compared, limit=limit, alpha=alpha, minimum=minimum)
    value = None if found.value is None else _rounded(agreed / compared)
    return Finding(found.kind, found.what, found.why, value, floor)


def coverage(gateways: int, reporting: int, *, least: float = 1.0) -> Finding:
    """Did at least a share ``least`` of the gateways report? A gap is never the canary's fault."""
    what = "coverage"
    if gateways <= 0:
        return Finding("no_data", what, "no gateway is known", None, least)
    share = _rounded(reporting / gateways)
    if reporting <= 0:
        return Finding("no_data", what, f"none of {gateways} gateways reported", share, least)
    if reporting > gateways:
        return Finding("error", what, f"{reporting} gateways reported, but only {gateways} are known", share, least)
    why = f"{reporting} of {gateways} gateways reported"
    return Finding("good" if reporting >= least * gateways else "error", what, why, share, least)


def _share(what: str, of_what: str, count: int, total: int, *, limit: float, alpha: float, minimum: int) -> Finding:
    """Is a share proven to be over its limit?

    The same e-process, in another role: under "at most the limit" each attempt is a throw that falls on the wrong
    side with a probability of at most ``limit``, and the alternatives multiply its odds by r. So a share that is over
    its limit by chance is found bad with a probability of at most alpha, however often it is looked at.
    """
    threshold = _threshold(alpha)
    if not 0 <= limit <= 1:
        raise ValueError(f"a share is limited to {limit}, must be from 0 to 1")
    if not 0 <= count <= total:
        return Finding("error", what, f"{count} of {total} {of_what}: these counts don't fit together", None, limit)
    if total < max(minimum, 1):
        why = f"{count} of {total} {of_what}: too few to judge, {max(minimum, 1)} are needed"
        return Finding("no_data", what, why, None, limit)
    proven = count > 0 if limit == 0 else _told(log_share_e_value(count, total, limit)) >= threshold
    share = count / total
    if proven:
        verdict = "over the limit by more than chance explains"
    elif share > limit:
        verdict = "over the limit, but chance explains it so far"
    else:
        verdict = "within the limit"
    why = f"{count} of {total} {of_what}, {100 * share:.3g} % where {100 * limit:.3g} % are allowed: {verdict}"
    return Finding("bad" if proven else "good", what, why, _rounded(share), limit)


def _with(tallies: tuple[Tally, ...], new: Tally) -> tuple[Tally, ...]:
    at = bisect_left(tallies, new.weight, key=lambda tally: tally.weight)
    if at < len(tallies) and tallies[at].weight == new.weight:
        return (*tallies[:at], _merged(tallies[at], new), *tallies[at + 1 :])
    tallies = (*tallies[:at], new, *tallies[at:])
    if len(tallies) <= MAX_WEIGHTS:
        return tallies
    # The nearest neighbours become one at the larger weight, which makes their evidence weaker, never stronger.
    lower = min(range(len(tallies) - 1), key=lambda place: tallies[place + 1].weight - tallies[place].weight)
    return (*tallies[:lower], _merged(tallies[lower], tallies[lower + 1]), *tallies[lower + 2 :])


def _merged(one: Tally, other: Tally) -> Tally:
    return Tally(max(one.weight, other.weight), one.canary + other.canary, one.stable + other.stable)


def _log_products(tallies: Iterable[Tally]) -> tuple[float, ...]:
    products = []
    for risk in RELATIVE_RISKS:
        product = 0.0
        for tally in tallies:
            canary, stable = log_factors(risk, tally.weight)
            product += tally.canary * canary + tally.stable * stable
        products.append(product)
    return tuple(products)


def _told(log_value: float) -> float:
    return min(exp(min(log_value, log(E_MAX))), E_MAX)


def _threshold(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, must be between 0 and 1")
    return 1 / alpha


def _figure(value: float) -> str:
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


def _rounded(value: float) -> float:
    """Six figures: the last bits of a logarithm differ from processor to processor, and a replay must not."""
    return float(f"{value:.6g}")
