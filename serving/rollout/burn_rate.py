"""How fast a variant uses up the error budget: multi-window, multi-burn-rate alerting. Pure.

**Formula.** An objective of 0.999 leaves a budget of 0.001 bad events an event. The burn rate over a window is the
share of bad events in it, divided by that budget: at 1 the budget lasts exactly as long as it is meant to. A rule fires
if the burn rate is over its factor in the long window (it matters) *and* in the short one (it still goes on). Any of
several rules is enough. Source: The Site Reliability Workbook, chapter 5 "Alerting on SLOs", section 6 and table 5-8
(https://sre.google/workbook/alerting-on-slos/), which also makes the short window a twelfth of the long one.

The workbook asks for enough *traffic* before a rule may fire. Here ``min_bad`` asks for enough *bad events* in the long
window: a canary with little traffic that fails all of it is found as soon as it has failed so often, and one unlucky
request is no alarm.

**Time** is the sum of the observations' seconds, so a replay needs no clock. After a gap, whoever observes tells how
long it was: an observation without attempts that took so many seconds.

A rate knows nothing of chance: a window that has only begun is over its factor by a few unlucky requests, and looked
at often enough every version is, some day. So a rate over its factor speaks against a version only together with
evidence that has a bound (``burning_beyond_chance``): that of a comparison with stable, or, where no stable version
answers beside it, that of ``overspent``. Both count every attempt, as a budget does, also those of keys that had been
bad before; so their bounds are for attempts that fail independently of each other.

**Formula.** Under "each attempt is bad with a probability of at most ``factor * (1 - objective)``", that is, the
version never burns faster than the factor, the likelihood ratios of ``serving.rollout.evidence`` multiply to an
e-process from whichever attempt on. Here is one from the very first attempt on, with half of the weight, and one from
each twelfth of the long window on; that from number ``n`` on (from 0) has ``1 / (2 * (n + 1) * (n + 2))`` of it. All
weights together are 1, so the sum is an e-process, too, and the chance that it ever comes to ``1 / alpha`` is at most
``alpha`` (Ville's inequality). Those that began before the long window are left out, which only makes the sum smaller.
A healthy time that is past is no shield, however long it was. Source: mixtures over the time of the change, as in Shin,
Ramdas and Rinaldo, "E-detectors" (arXiv 2203.03532); weights that add up to 1 make of their bound on the time to a
false alarm one on its probability.
"""

from __future__ import annotations

from math import floor, log
from typing import Final

import msgspec

from serving.rollout.evidence import Finding, VariantCounts, log_mean_exp, log_share_e_value

BUCKETS: Final = 12
"""A window is so many buckets, and lets go of a whole one at a time: it covers 11 to 12 twelfths of its length."""

MAX_RULES: Final = 8
"""Bounds the state, which is part of every snapshot of a rollout."""


class Budget(msgspec.Struct, frozen=True):
    """What share of events has to be good, for example 0.999."""

    objective: float

    def __post_init__(self) -> None:
        if not 0 < self.objective < 1:
            raise ValueError(f"objective is {self.objective}, must be between 0 and 1")

    @property
    def share(self) -> float:
        """What share of events may be bad."""
        return 1 - self.objective


class BurnRateRule(msgspec.Struct, frozen=True):
    """Fires if the burn rate is over ``factor`` in both windows. They may be as short as a few observations."""

    long_s: float
    short_s: float
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.short_s < self.long_s:
            raise ValueError(f"short_s is {self.short_s}, must be over 0 and under long_s, which is {self.long_s}")
        if not self.factor > 0:
            raise ValueError(f"factor is {self.factor}, must be over 0")


WORKBOOK_RULES: Final = (BurnRateRule(3600, 300, 14.4), BurnRateRule(21_600, 1800, 6))
"""The two that page somebody: 2 % of a month's budget in an hour, 5 % in six hours."""

ROLLOUT_RULES: Final = (BurnRateRule(60, 5, 14.4), BurnRateRule(360, 30, 6))
"""The same factors sixty times as fast: a rollout is over before the workbook's windows are full."""


class Bucket(msgspec.Struct, frozen=True):
    """Counts of a twelfth of a window; ``number`` says of which, counted from the start."""

    number: int
    attempts: int
    bad: int


class Span(msgspec.Struct, frozen=True):
    """One window. Empty buckets are left out, so there are at most ``BUCKETS``."""

    seconds: float
    buckets: tuple[Bucket, ...] = ()

    @property
    def attempts(self) -> int:
        return sum(bucket.attempts for bucket in self.buckets)

    @property
    def bad(self) -> int:
        return sum(bucket.bad for bucket in self.buckets)


class BurnRate(msgspec.Struct, frozen=True):
    """The windows of all rules, their settings, and sums over the whole time. Begin one with ``begun``."""

    budget: Budget
    rules: tuple[BurnRateRule, ...]
    min_bad: int
    spans: tuple[Span, ...]
    elapsed_s: float = 0.0
    attempts: int = 0
    bad: int = 0


def begun(budget: Budget, rules: tuple[BurnRateRule, ...] = ROLLOUT_RULES, *, min_bad: int = 10) -> BurnRate:
    """A burn rate that has seen nothing yet. Raises ValueError if there is no rule, too many, or no floor."""
    if not 1 <= len(rules) <= MAX_RULES:
        raise ValueError(f"there are {len(rules)} burn rate rules, must be from 1 to {MAX_RULES}")
    if min_bad < 1:
        raise ValueError(f"min_bad is {min_bad}, must be at least 1")
    lengths = sorted({seconds for rule in rules for seconds in (rule.long_s, rule.short_s)})
    return BurnRate(budget, rules, min_bad, tuple(Span(seconds) for seconds in lengths))


def counted(state: BurnRate, counts: VariantCounts, seconds: float) -> BurnRate:
    """The state after ``seconds`` more in which a variant had these counts. They belong to the end of that time."""
    if not seconds >= 0:
        raise ValueError(f"an observation took {seconds} s, must be 0 or more")
    elapsed = state.elapsed_s + seconds
    return msgspec.structs.replace(
        state,
        spans=tuple(_later(span, counts, elapsed) for span in state.spans),
        elapsed_s=elapsed,
        attempts=state.attempts + counts.attempts,
        bad=state.bad + counts.bad,
    )


def budget_left(state: BurnRate) -> float | None:
    """The share of the budget of all attempts so far that isn't used up, below 0 if it is overdrawn; None without any.

    It is the budget of the traffic that there was, not of a month: a rollout has no month.
    """
    return 1 - state.bad / (state.attempts * state.budget.share) if state.attempts else None


def burning(state: BurnRate, *, beside: BurnRate | None = None) -> Finding:
    """Does the variant burn its budget too fast by any rule? With no bound on false alarms.

    ``beside`` is stable's, with the same rules and the same times. If what stable did in each twelfth of a window would
    have made the canary burn at half the factor, then nothing can be said about the canary alone: what is worse about
    it, relative evidence tells. Twelfth by twelfth, because a canary that was given more weight in an outage has fewer
    good attempts behind it than stable, and would fire first.
    """
    what = "burn_rate"
    rule, long_rate, short_rate = max(
        ((rule, *_rates(state, rule)) for rule in state.rules),
        key=lambda found: (_fires(state, found[0]), min(found[1:]) / found[0].factor),
    )
    if not any(_span(state, rule.long_s).attempts for rule in state.rules):
        longest = max(rule.long_s for rule in state.rules)
        return Finding("no_data", what, f"no first attempts in the last {longest:g} s", None, rule.factor)
    value = float(f"{min(long_rate, short_rate):.6g}")
    bad = _span(state, rule.long_s).bad
    why = (
        f"the budget burns at {long_rate:.3g} times its rate over {rule.long_s:g} s "
        f"and {short_rate:.3g} times over {rule.short_s:g} s (both over {rule.factor:g} is too fast; {bad} bad events)"
    )
    if not _fires(state, rule):
        if value > rule.factor:
            why += f", but {state.min_bad} are needed to judge"
        return Finding("good", what, why, value, rule.factor)
    if beside is not None and any(_shared(state, beside, other) for other in state.rules):
        return Finding("no_data", what, f"{why}, but stable's does so too: that is not the canary", value, rule.factor)
    return Finding("bad", what, why, value, rule.factor)


def burning_beyond_chance(state: BurnRate, *, beside: BurnRate, worse: bool, alone: BurnRate, alpha: float) -> Finding:
    """Does the variant burn its budget too fast, and is it the variant, not chance or what everybody suffers?

    ``worse`` says that a comparison with stable has shown so, at an alpha of its own; if stable burns as well, it isn't
    the budget's business. ``alone`` has only what the variant did while it had all requests, so that nobody was there
    to compare with: there it has to be ``overspent`` at ``alpha``. Until one of both is so, a budget that burns says
    that nothing is known (``no_data``).
    """
    found = burning(state)
    if found.kind != "bad":
        return found
    shared = any(_shared(state, beside, rule) for rule in state.rules)
    if (worse and not shared) or overspent(alone, alpha):
        return found
    why = "stable's does so too: that is not the canary" if shared else "chance explains it so far"
    return msgspec.structs.replace(found, kind="no_data", why=f"{found.why}, but {why}")


def overspent(state: BurnRate, alpha: float) -> bool:
    """Is it more than chance that the variant burns its budget faster than the factor of any rule?

    If it never does so by any, this is ever true with a probability of at most ``alpha``, looked at as often as one
    likes.
    """
    enough = log(len(state.rules) / alpha)
    return any(_log_evidence(state, rule) >= enough for rule in state.rules)


def _log_evidence(state: BurnRate, rule: BurnRateRule) -> float:
    limit = rule.factor * state.budget.share
    logs = [log_share_e_value(state.bad, state.attempts, limit) - log(2)]
    attempts = bad = 0
    for bucket in reversed(_span(state, rule.long_s).buckets):
        attempts, bad = attempts + bucket.attempts, bad + bucket.bad
        weight = log(2) + log(bucket.number + 1) + log(bucket.number + 2)
        logs.append(log_share_e_value(bad, attempts, limit) - weight)
    return log_mean_exp(logs) + log(len(logs))


def _later(span: Span, counts: VariantCounts, elapsed: float) -> Span:
    now = floor(elapsed * BUCKETS / span.seconds)
    buckets = tuple(bucket for bucket in span.buckets if bucket.number > now - BUCKETS)
    if counts.attempts or counts.bad:
        attempts, bad = counts.attempts, counts.bad
        if buckets and buckets[-1].number == now:
            attempts, bad = attempts + buckets[-1].attempts, bad + buckets[-1].bad
            buckets = buckets[:-1]
        buckets = (*buckets, Bucket(now, attempts, bad))
    return Span(span.seconds, buckets)


def _span(state: BurnRate, seconds: float) -> Span:
    return next(span for span in state.spans if span.seconds == seconds)


def _rates(state: BurnRate, rule: BurnRateRule) -> tuple[float, float]:
    long_span, short_span = _span(state, rule.long_s), _span(state, rule.short_s)
    return _rate(long_span, state.budget), _rate(short_span, state.budget)


def _rate(span: Span, budget: Budget) -> float:
    """A window without attempts burns nothing."""
    return span.bad / span.attempts / budget.share if span.attempts else 0.0


def _fires(state: BurnRate, rule: BurnRateRule) -> bool:
    return min(_rates(state, rule)) > rule.factor and _span(state, rule.long_s).bad >= state.min_bad


def _shared(state: BurnRate, beside: BurnRate, rule: BurnRateRule) -> bool:
    """Whether stable's own failing explains half of the factor, in one window or the other."""
    if _span(beside, rule.long_s).bad < state.min_bad:
        return False
    spans = ((_span(state, seconds), _span(beside, seconds)) for seconds in (rule.long_s, rule.short_s))
    return any(_explained(own, stable) > rule.factor / 2 * state.budget.share for own, stable in spans)


def _explained(own: Span, stable: Span) -> float:
    """The share of bad events that a span would have had with stable's share in each of its buckets."""
    shares = {bucket.number: bucket.bad / bucket.attempts for bucket in stable.buckets if bucket.attempts}
    expected = sum(bucket.attempts * shares.get(bucket.number, 0.0) for bucket in own.buckets)
    return expected / own.attempts if own.attempts else 0.0
