"""All that is known for and against the canary, gathered observation by observation, and judged by the spec. Pure.

The numbers are judged by ``serving.rollout.evidence`` and ``serving.rollout.burn_rate``; here is which counts go where,
and how a rollout's ``alpha`` is shared. Not here: what follows from a finding (``serving.rollout.decide``).

**What alpha promises.** A rollout whose canary is no worse than the stable version beside it, stays within its limits
(``invalidMax``, ``shadow.agreement``), and doesn't burn its budget faster than the factors where it has all requests,
is taken back by these findings with a probability of at most ``alpha``: each kind of finding has a share of it, and
the chance of any is at most the sum of all, whatever depends on what (Boole's inequality). A person who forgives a
breach begins anew, with the whole of it.

**Rules.** A rollout is judged to its end by the rules that it started with, for every decision has to come out again
(``docs/adr/0029``). By rules 1, of logs that don't say, each finding has an alpha of its own, and the budget speaks
against the canary without regard to chance unless stable's burns as well.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from serving.rollout.burn_rate import (
    Budget,
    BurnRate,
    BurnRateRule,
    begun,
    burning,
    burning_beyond_chance,
    counted,
)
from serving.rollout.events import RULES, Rules
from serving.rollout.evidence import (
    EProcess,
    Finding,
    Observation,
    VariantCounts,
    agreement,
    coverage,
    e_value,
    observed,
    relative,
    validity,
)
from serving.rollout.spec import RolloutSpec, seconds

COMPARISON: Final = 2 / 3
"""Of alpha: what the comparison with stable may spend. It is what finds bad canaries, so it has the most."""

OTHERS: Final = 1 / 9
"""Of alpha: what each of budget, validity and agreement may spend."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was counted. ``here`` are the canary's attempts at the weight in force, the rest is of the whole rollout.

    What the budget is judged by, by rules 2: ``every`` compares as ``process`` does, but every bad attempt, also those
    of keys that had been bad before; ``alone_burn`` is the canary's while it has all requests. ``gap_s`` says for how
    long not every gateway has reported; ``reporting`` is the judgement of the last window.
    """

    process: EProcess = EProcess()
    canary_burn: BurnRate
    stable_burn: BurnRate
    every: EProcess | None = None
    alone_burn: BurnRate | None = None
    here: VariantCounts = VariantCounts()
    gap_s: float = 0.0
    reporting: Finding | None = None

    @property
    def complete(self) -> bool:
        """Whether all gateways reported in the last window."""
        return self.reporting is not None and self.reporting.kind == "good"


def no_evidence(spec: RolloutSpec, rules: Rules = RULES) -> Evidence:
    """Before anything was seen."""
    slo = spec.analysis.slo
    burn_rules = tuple(
        BurnRateRule(long_s=seconds(rule.long), short_s=seconds(rule.short), factor=rule.factor)
        for rule in slo.burn_rates
    )
    burn = begun(Budget(slo.objective), burn_rules, min_bad=slo.min_bad_events)
    if rules == 1:
        return Evidence(canary_burn=burn, stable_burn=burn)
    return Evidence(canary_burn=burn, stable_burn=burn, every=EProcess(), alone_burn=burn)


def gathered(evidence: Evidence, observation: Observation, *, here: bool) -> Evidence:
    """The evidence after one more window; ``here`` says whether the weight in force was in force all through it."""
    reporting = coverage(observation.gateways, observation.gateways_reporting)
    canary, stable = _burnt(observation.canary), _burnt(observation.stable)
    every, alone = evidence.every, evidence.alone_burn
    if every is not None:
        every = observed(every, replace(observation, canary=canary, stable=stable))
    if alone is not None and observation.weight == 1:
        alone = counted(alone, canary, observation.seconds)
    return replace(
        evidence,
        process=observed(evidence.process, observation),
        canary_burn=counted(evidence.canary_burn, canary, observation.seconds),
        stable_burn=counted(evidence.stable_burn, stable, observation.seconds),
        every=every,
        alone_burn=alone,
        here=evidence.here.plus(observation.canary) if here else evidence.here,
        gap_s=0.0 if reporting.kind == "good" else evidence.gap_s + observation.seconds,
        reporting=reporting,
    )


def comparison_alpha(spec: RolloutSpec, rules: Rules) -> float:
    """What the comparison with stable may spend: evidence of its reciprocal is enough."""
    return spec.analysis.alpha * (1 if rules == 1 else COMPARISON)


def judged(spec: RolloutSpec, evidence: Evidence, rules: Rules = RULES) -> tuple[Finding, ...]:
    """What the counts say, each kind of finding once. Safe to look at after every event.

    Validity is judged afresh at each weight, so each gets its share of alpha; so a canary that turns bad late isn't
    shielded by its good past.
    """
    analysis, process = spec.analysis, evidence.process
    alpha = analysis.alpha * (1 if rules == 1 else OTHERS)
    weights = sum(step.set_weight is not None for step in spec.steps)
    findings = [
        relative(process, comparison_alpha(spec, rules)),
        _budget(evidence, alpha),
        validity(evidence.here, limit=analysis.invalid_max, alpha=alpha / (weights + 1)),
    ]
    if (rule := analysis.shadow) is not None:
        findings.append(agreement(process.compared, process.agreed, rule.agreement, rule.min_compared, alpha=alpha))
    if evidence.reporting is not None:
        findings.append(evidence.reporting)
    return tuple(findings)


def _budget(evidence: Evidence, alpha: float) -> Finding:
    """Half of its alpha is for the time beside stable, and half for that in which the canary has all requests."""
    canary, stable, every, alone = evidence.canary_burn, evidence.stable_burn, evidence.every, evidence.alone_burn
    if every is None or alone is None:
        return burning(canary, beside=stable)
    worse = e_value(every) >= 2 / alpha
    return burning_beyond_chance(canary, beside=stable, worse=worse, alone=alone, alpha=alpha / 2)


def _burnt(counts: VariantCounts) -> VariantCounts:
    """The counts as an error budget sees them: every bad attempt used some of it up."""
    return replace(counts, bad=counts.bad + counts.repeated, repeated=0)
