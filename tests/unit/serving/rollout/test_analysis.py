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


# --- the budget


def seen(canary: VariantCounts, stable: VariantCounts = NONE, *, weight: float = 0.05, times: int = 1) -> Evidence:
    return more(no_evidence(SPEC), canary, stable, weight=weight, times=times)


def more(
    evidence: Evidence, canary: VariantCounts, stable: VariantCounts = NONE, *, weight: float = 0.05, times: int = 1
) -> Evidence:
    for _ in range(times):
        evidence = gathered(evidence, replace(window(canary, stable), weight=weight), here=True)
    return evidence


def by_rules_1(evidence: Evidence, what: str) -> Finding:
    old = replace(evidence, every=None, alone_burn=None)
    [finding] = [finding for finding in judged(SPEC, old, 1) if finding.what == what]
    return finding


def test_a_canary_that_is_only_unlucky_keeps_its_rollout_from_going_on_and_no_more() -> None:
    evidence = seen(VariantCounts(60, 11), VariantCounts(1000, 70))
    assert by_rules_1(evidence, "burn_rate").kind == "bad"
    assert found(evidence, "burn_rate").kind == "no_data"
    assert found(evidence, "relative").kind == "good"


def test_keys_that_have_all_been_bad_before_are_no_shield() -> None:
    """The comparison of keys sees nothing any more; the budget compares every attempt."""
    evidence = seen(VariantCounts(20, 0, repeated=18), VariantCounts(380, 0, repeated=2), times=10)
    assert found(evidence, "relative").kind == "good"
    assert found(evidence, "burn_rate").kind == "bad"
    alone = seen(VariantCounts(400, 0, repeated=200), weight=1.0, times=10)
    assert found(alone, "burn_rate").kind == "bad"


def test_the_budget_where_the_canary_has_all_requests_has_evidence_of_its_own() -> None:
    evidence = seen(VariantCounts(20, 2), VariantCounts(380, 38), times=20)
    assert evidence.alone_burn == no_evidence(SPEC).alone_burn
    evidence = more(evidence, VariantCounts(400, 30), weight=1.0)
    assert evidence.alone_burn is not None
    assert (evidence.alone_burn.attempts, evidence.alone_burn.bad) == (400, 30)
    assert found(evidence, "burn_rate").kind != "bad"
    assert found(more(evidence, VariantCounts(400, 200), weight=1.0, times=30), "burn_rate").kind == "bad"


def test_an_outage_of_both_is_not_the_canarys_however_many_of_its_keys_ask_again_and_again() -> None:
    """One key with a tenth of the requests is the canary's: of all attempts it has more than its weight explains."""
    evidence = seen(VariantCounts(60, 1, repeated=11), VariantCounts(340, 5, repeated=63), times=20)
    assert found(evidence, "burn_rate").kind == "no_data"


def test_by_rules_1_nothing_of_that_is_kept() -> None:
    evidence = gathered(no_evidence(SPEC, 1), window(VariantCounts(10, 1)), here=True)
    assert (evidence.every, evidence.alone_burn) == (None, None)


def test_findings_share_alpha() -> None:
    spec = rollout_spec(analysis="{alpha: 0.01, shadow: {agreement: 0.9}}")
    [comparison] = [one for one in judged(spec, no_evidence(spec)) if one.what == "relative"]
    assert comparison.threshold == 150
    [comparison] = [one for one in judged(spec, no_evidence(spec, 1), 1) if one.what == "relative"]
    assert comparison.threshold == 100
