"""What a gateway has counted of a rollout: by weight, each bad key once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing import outcomes
from serving.routing.outcomes import WEIGHTS_MAX, AtWeight, BadKey, Counted, Ledger

KINDS: tuple[outcomes.Kind, ...] = ("failed", "slow", "invalid")


def ledger() -> Ledger:
    return Ledger("r1", "v2", "v1")


def test_counts_are_kept_apart_by_variant_and_weight() -> None:
    kept = ledger()
    for weight, attempts in ((0.5, 1), (0.05, 2)):
        canary, stable = kept.at(weight)
        canary.attempts += attempts
        stable.attempts += 10 * attempts
    kept.bad(kept.at(0.05)[0], "invalid", None)
    assert kept.counts() == (
        AtWeight(0.05, Counted(2, bad=1, invalid=1), Counted(20)),
        AtWeight(0.5, Counted(1), Counted(10)),
    )


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(KINDS), st.one_of(st.none(), st.integers(0, 5)))))
def test_a_key_is_bad_once_wherever_that_was_and_a_request_every_time(
    events: list[tuple[bool, outcomes.Kind, int | None]],
) -> None:
    kept = ledger()
    canary, stable = kept.at(0.1)
    for on_canary, kind, key in events:
        kept.bad(canary if on_canary else stable, kind, key)
    keys = {key for _, _, key in events if key is not None}
    lone = sum(key is None for _, _, key in events)
    assert canary.bad + stable.bad == lone + len(keys)
    assert canary.repeated + stable.repeated == len(events) - lone - len(keys)
    assert all(each.slow + each.invalid <= each.bad for each in (canary, stable))
    assert [key.mark for key in kept.bad_keys(0)] == list(dict.fromkeys(key for _, _, key in events if key is not None))


def test_whoever_adds_gateways_up_can_take_out_the_keys_that_both_have_counted() -> None:
    kept = ledger()
    canary, stable = kept.at(0.1)
    kept.bad(canary, "slow", 7)
    kept.bad(stable, "failed", 8)
    kept.bad(stable, "failed", 7)
    assert kept.bad_keys(0) == (BadKey(7, 0.1, True, "slow"), BadKey(8, 0.1, False, "failed"))
    assert kept.bad_keys(1) == (BadKey(8, 0.1, False, "failed"),)
    assert kept.bad_keys(kept.next_key) == ()


def test_more_keys_than_can_be_remembered_are_no_evidence_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "KEYS_MAX", 2)
    kept = ledger()
    canary, _ = kept.at(0.1)
    for key in (1, 2, 3, 1):
        kept.bad(canary, "failed", key)
    assert (canary.bad, canary.repeated, kept.keys_full) == (2, 2, True)
    kept.bad(canary, "failed", None)
    assert canary.bad == 3


def test_more_weights_than_can_be_kept_apart_are_put_where_they_are_no_evidence() -> None:
    kept = ledger()
    for number in range(WEIGHTS_MAX):
        kept.at(number / 100)
    for weight in (0.9, 0.91, 0.01):
        kept.at(weight)[0].attempts += 1
    assert {at.weight: at.canary.attempts for at in kept.counts() if at.canary.attempts} == {0.01: 1, 1.0: 2}


def test_what_is_collected_is_plain_data() -> None:
    kept = ledger()
    kept.bad(kept.at(0.1)[0], "slow", 2**64 - 1)
    for found in (kept.counts(), kept.bad_keys(0)):
        assert msgspec.json.decode(msgspec.json.encode(found), type=tuple[type(found[0]), ...]) == found  # type: ignore[misc]
