"""Which counts go where: what is judged over the whole rollout, and what only at the weight in force."""

from __future__ import annotations

from msgspec.structs import replace

from serving.rollout.analysis import Evidence, gathered, judged, no_evidence
from serving.rollout.evidence import Finding, Observation, VariantCounts, validity
from tests.rollouts import rollout_spec

SPEC = rollout_spec()
NONE = VariantCounts()


def window(canary: VariantCounts, stable: VariantCounts = NONE, *, reporting: int = 2) -> Observation:
    return Observation(0.0, 1.0, 0.05, canary, stable, 7, 6, 2, reporting)


def found(evidence: Evidence, what: str) -> Finding:
    [finding] = [finding for finding in judged(SPEC, evidence) if finding.what == what]
    return finding


def test_each_window_is_counted_once_in_all_that_it_says() -> None:
    evidence = gathered(no_evidence(SPEC), window(VariantCounts(10, 1), VariantCounts(90, 2)), here=True)
    assert evidence.here == evidence.process.canary == VariantCounts(10, 1)
    assert (evidence.canary_burn.attempts, evidence.stable_burn.attempts) == (10, 90)
    assert (evidence.process.compared, evidence.process.agreed) == (7, 6)
    assert evidence.complete


def test_bad_attempts_of_keys_that_were_bad_before_use_up_the_budget_and_are_no_evidence() -> None:
    counts = VariantCounts(10, 1, 0, 0, repeated=4)
    evidence = gathered(no_evidence(SPEC), window(counts, counts), here=True)
    assert (evidence.canary_burn.bad, evidence.stable_burn.bad) == (5, 5)
    assert [(tally.canary, tally.stable) for tally in evidence.process.tallies] == [(1, 1)]
    assert evidence.here == evidence.process.canary == counts


def test_what_was_thrown_at_another_weight_counts_for_the_rollout_but_not_for_the_step() -> None:
    evidence = gathered(no_evidence(SPEC), window(VariantCounts(10, 1)), here=False)
    assert evidence.here == NONE
    assert evidence.process.canary == VariantCounts(10, 1)


def test_a_gap_grows_until_all_gateways_report_again() -> None:
    evidence = no_evidence(SPEC)
    for gap_s in (1.0, 2.0):
        evidence = gathered(evidence, window(NONE, reporting=1), here=True)
        assert (evidence.gap_s, evidence.complete) == (gap_s, False)
    evidence = gathered(evidence, window(NONE), here=True)
    assert (evidence.gap_s, evidence.complete) == (0.0, True)


def test_validity_is_judged_at_the_weight_in_force_so_that_a_good_past_is_no_shield() -> None:
    evidence = gathered(no_evidence(SPEC), window(VariantCounts(10_000)), here=False)
    evidence = gathered(evidence, window(VariantCounts(20, 20, 0, 20)), here=True)
    assert found(evidence, "validity").kind == "bad"


def test_validity_at_each_weight_has_only_its_share_of_alpha() -> None:
    limit, alpha = SPEC.analysis.invalid_max, SPEC.analysis.alpha
    tried = (VariantCounts(attempts, 5, 0, 5) for attempts in range(5, 3000))
    counts = next(
        counts
        for counts in tried
        if validity(counts, limit=limit, alpha=alpha).kind == "bad"
        and validity(counts, limit=limit, alpha=alpha / 4).kind == "good"
    )
    assert found(replace(no_evidence(SPEC), here=counts), "validity").kind == "good"


def test_every_finding_has_a_name_of_its_own() -> None:
    spec = rollout_spec(analysis="{shadow: {agreement: 0.9}}")
    evidence = gathered(no_evidence(spec), window(VariantCounts(10), VariantCounts(90)), here=True)
    names = [finding.what for finding in judged(spec, evidence)]
    assert names == ["relative", "burn_rate", "validity", "agreement", "coverage"]
