"""All that is known for and against the canary, gathered observation by observation, and judged by the spec. Pure.

The numbers are judged by ``serving.rollout.evidence`` and ``serving.rollout.burn_rate``; here is only which counts go
where. Not here: what follows from a finding (``serving.rollout.decide``).
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from serving.rollout.burn_rate import Budget, BurnRate, BurnRateRule, begun, burning, counted
from serving.rollout.evidence import (
    EProcess,
    Finding,
    Observation,
    VariantCounts,
    agreement,
    coverage,
    observed,
    relative,
    validity,
)
from serving.rollout.spec import RolloutSpec, seconds


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was counted. ``here`` are the canary's attempts at the weight in force, the rest is of the whole rollout.

    ``gap_s`` says for how long not every gateway has reported; ``reporting`` is the judgement of the last window.
    """

    process: EProcess = EProcess()
    canary_burn: BurnRate
    stable_burn: BurnRate
    here: VariantCounts = VariantCounts()
    gap_s: float = 0.0
    reporting: Finding | None = None

    @property
    def complete(self) -> bool:
        """Whether all gateways reported in the last window."""
        return self.reporting is not None and self.reporting.kind == "good"


def no_evidence(spec: RolloutSpec) -> Evidence:
    """Before anything was seen."""
    slo = spec.analysis.slo
    rules = tuple(
        BurnRateRule(long_s=seconds(rule.long), short_s=seconds(rule.short), factor=rule.factor)
        for rule in slo.burn_rates
    )
    burn = begun(Budget(slo.objective), rules, min_bad=slo.min_bad_events)
    return Evidence(canary_burn=burn, stable_burn=burn)


def gathered(evidence: Evidence, observation: Observation, *, here: bool) -> Evidence:
    """The evidence after one more window; ``here`` says whether the weight in force was in force all through it."""
    reporting = coverage(observation.gateways, observation.gateways_reporting)
    return replace(
        evidence,
        process=observed(evidence.process, observation),
        canary_burn=counted(evidence.canary_burn, _burnt(observation.canary), observation.seconds),
        stable_burn=counted(evidence.stable_burn, _burnt(observation.stable), observation.seconds),
        here=evidence.here.plus(observation.canary) if here else evidence.here,
        gap_s=0.0 if reporting.kind == "good" else evidence.gap_s + observation.seconds,
        reporting=reporting,
    )


def judged(spec: RolloutSpec, evidence: Evidence) -> tuple[Finding, ...]:
    """What the counts say, each kind of finding once. Safe to look at after every event.

    Validity is judged afresh at each weight, so each gets its share of alpha; so a canary that turns bad late isn't
    shielded by its good past.
    """
    analysis, process = spec.analysis, evidence.process
    share = analysis.alpha / (sum(step.set_weight is not None for step in spec.steps) + 1)
    findings = [
        relative(process, analysis.alpha),
        burning(evidence.canary_burn, beside=evidence.stable_burn),
        validity(evidence.here, limit=analysis.invalid_max, alpha=share),
    ]
    if (rule := analysis.shadow) is not None:
        findings.append(
            agreement(process.compared, process.agreed, rule.agreement, rule.min_compared, alpha=analysis.alpha)
        )
    if evidence.reporting is not None:
        findings.append(evidence.reporting)
    return tuple(findings)


def _burnt(counts: VariantCounts) -> VariantCounts:
    """The counts as an error budget sees them: every bad attempt used some of it up."""
    return replace(counts, bad=counts.bad + counts.repeated, repeated=0)
