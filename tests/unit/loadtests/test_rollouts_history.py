"""What the rollout proofs read out of a rollout's history."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.rollouts.history import Event, TakenBack, done_twice, taken_back


def happened(*events: tuple[str, dict[str, Any]], cause: int | None = None) -> list[Event]:
    """One after the other, a tenth of a second apart, each caused by the one before."""
    return [
        {
            "seq": seq,
            "wall": 100 + seq / 10,
            "cause": cause or seq - 1,
            "rollout": "digits-1",
            "event": {"event": name, **fields},
        }
        for seq, (name, fields) in enumerate(events, start=1)
    ]


def applied(effect: int, weight: int, acknowledged: int = 2) -> tuple[str, dict[str, Any]]:
    return "WeightApplied", {"effect": effect, "weight": weight, "acknowledged": acknowledged, "gateways": 2}


ROLLED_BACK = happened(
    ("Start", {}),
    ("DeployVersion", {"id": 1}),
    ("VersionReady", {"effect": 1}),
    ("SetWeight", {"id": 2, "weight": 5}),
    applied(2, 5),
    ("Observed", {}),
    ("RollBackNow", {"id": 3, "reason": "30 of 40 are bad"}),
    applied(3, 0, acknowledged=1),
    applied(3, 0),
    ("Finish", {"id": 4}),
    ("VersionGone", {"effect": 4}),
)


def test_the_time_of_a_rollback_is_from_the_evidence_to_the_last_gateway() -> None:
    back = taken_back(ROLLED_BACK)
    assert back == TakenBack(evidence=100.6, decided=100.7, done=100.9, reason="30 of 40 are bad")
    assert back.took_s == pytest.approx(0.3)


def test_a_rollback_that_no_gateway_has_heard_of_yet_has_no_time() -> None:
    back = taken_back(ROLLED_BACK[:8])
    assert back is not None
    assert back.done is None
    assert back.took_s is None


def test_a_rollout_that_went_on_was_not_taken_back() -> None:
    assert taken_back(ROLLED_BACK[:6]) is None


def test_a_history_in_which_all_was_done_once_is_fine() -> None:
    assert done_twice(ROLLED_BACK) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("DeployVersion", {"id": 5}), "2 times DeployVersion"),
        (("Finish", {"id": 5}), "2 times Finish"),
        (("SetWeight", {"id": 5, "weight": 5}), "weights [5, 5] don't go up, each once"),
        (("Wait", {"id": 4}), "decisions are numbered [1, 2, 3, 4, 4], not from 1 on, each once"),
        (("Wait", {"id": 6}), "decisions are numbered [1, 2, 3, 4, 6], not from 1 on, each once"),
        (applied(2, 5), "effect 2 was reported as done 2 times"),
        (("VersionReady", {"effect": 1}), "effect 1 was reported as done 2 times"),
        (("VersionGone", {"effect": 4}), "effect 4 was reported as done 2 times"),
    ],
)
def test_whatever_was_decided_or_done_twice_is_found(more: tuple[str, dict[str, Any]], said: str) -> None:
    names = [
        (event["event"]["event"], {k: v for k, v in event["event"].items() if k != "event"}) for event in ROLLED_BACK
    ]
    assert said in done_twice(happened(*names, more))


def test_a_weight_that_not_all_gateways_have_yet_is_not_done() -> None:
    names = [
        (event["event"]["event"], {k: v for k, v in event["event"].items() if k != "event"}) for event in ROLLED_BACK
    ]
    assert done_twice(happened(*names, applied(3, 0, acknowledged=1))) == []
