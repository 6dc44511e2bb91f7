"""All rollouts together: one at a time for each model, and what was taken back stays so until a person says else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from serving.rollout.desired import (
    DesiredState,
    Entry,
    StartRefused,
    decode_desired,
    decode_entry,
    due,
    encode_desired,
    encode_entry,
    recorded,
    refusal,
    undone,
)
from serving.rollout.events import (
    Abort,
    ClockTick,
    Event,
    Finish,
    Rollback,
    RollBackNow,
    Start,
    VersionGone,
    VersionReady,
    WeightApplied,
)
from serving.rollout.state import IllegalMove, Phase
from tests.rollouts import rollout_spec, start_of

SPEC = rollout_spec()


def settle(desired: DesiredState) -> DesiredState:
    while entries := due(desired):
        for entry in entries:
            desired = recorded(desired, entry)
    return desired


def folded(*events: Event, rollout: str = "digits-1", onto: DesiredState | None = None) -> DesiredState:
    desired = onto or DesiredState()
    for event in events:
        desired = settle(recorded(desired, Entry(rollout, event)))
    return desired


def taken_back(*, gone: bool = True) -> DesiredState:
    """A first rollout that a person has rolled back."""
    events: list[Event] = [
        start_of(SPEC),
        VersionReady(at=1.0, effect=1),
        Rollback(at=2.0, who="anna", why="wrong labels"),
        WeightApplied(at=3.0, effect=3, generation=2, weight=0, acknowledged=1, gateways=1),
    ]
    return folded(*events, *([VersionGone(at=4.0, effect=4, version="v2")] if gone else []))


def test_a_second_rollout_of_a_model_is_refused_and_the_first_is_named() -> None:
    desired = folded(start_of(SPEC))
    second = start_of(rollout_spec(version="v3"), rollout="digits-2")
    assert refusal(desired, second) == (
        "digits-1 (v1 to v2) of 'digits' is Starting: "
        "wait until it ends, or end it with `holdfast rollout abort digits`"
    )
    with pytest.raises(StartRefused):
        recorded(desired, Entry("digits-2", second))


def test_another_model_has_its_own() -> None:
    other = start_of(rollout_spec(model="faces"), rollout="faces-1")
    desired = folded(other, rollout="faces-1", onto=folded(start_of(SPEC)))
    assert set(desired.rollouts) == {"digits", "faces"}


def test_while_the_old_version_is_still_being_removed_a_new_rollout_has_to_wait() -> None:
    assert "v2 is still being removed" in refusal(taken_back(gone=False), start_of(SPEC, rollout="digits-2"))
    assert refusal(taken_back(), start_of(SPEC, rollout="digits-2")) == ""


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (start_of(SPEC, prior="v0"), "the stable version of 'digits' is v0, not v1"),
        (start_of(rollout_spec(version="v1", **{"from": "v0"})), "is the stable version already"),
        (start_of(SPEC, rollout="digits-7"), "is called digits-1, not digits-7"),
    ],
)
def test_what_cannot_start_is_refused_before_anything_happens(start: Start, said: str) -> None:
    assert said in refusal(DesiredState(), start)
    with pytest.raises(StartRefused):
        recorded(DesiredState(), Entry(start.rollout, start))


def test_a_version_is_marked_as_rolled_back_before_anything_is_done_about_it() -> None:
    desired = taken_back()
    assert desired.rolled_back == {"digits@v2": "rolled back by anna: wrong labels"}
    open_then = [effect for _, effect in undone(folded(start_of(SPEC), Rollback(at=2.0, who="anna")))]
    assert [type(effect) for effect in open_then] == [RollBackNow]


def test_a_version_that_a_person_aborted_is_not_marked() -> None:
    desired = folded(start_of(SPEC), Abort(at=2.0, who="anna"))
    assert isinstance(desired.rollouts["digits"].open, RollBackNow)
    assert desired.rolled_back == {}


def test_the_mark_goes_only_with_a_persons_new_start() -> None:
    desired = folded(ClockTick(at=99.0), onto=taken_back())
    assert "digits@v2" in desired.rolled_back
    again = folded(start_of(SPEC, rollout="digits-2"), rollout="digits-2", onto=desired)
    assert again.rolled_back == {}
    assert again.rollouts["digits"].phase is Phase.STARTING


def test_an_event_of_a_rollout_that_is_no_longer_the_latest_is_refused() -> None:
    again = folded(start_of(SPEC, rollout="digits-2"), rollout="digits-2", onto=taken_back())
    with pytest.raises(IllegalMove, match="there is no rollout digits-1"):
        recorded(again, Entry("digits-1", ClockTick(at=100.0)))


def test_what_is_decided_and_not_done_is_known_after_every_restart() -> None:
    desired = taken_back(gone=False)
    [(rollout, effect)] = undone(decode_desired(encode_desired(desired)))
    assert rollout == "digits-1"
    assert isinstance(effect, Finish)
    assert effect.remove == "v2"
    assert undone(taken_back()) == ()


def test_entries_and_snapshots_come_back_as_they_went() -> None:
    entry = Entry("digits-1", start_of(SPEC))
    assert decode_entry(encode_entry(entry)) == entry
    desired = taken_back()
    assert decode_desired(encode_desired(desired)) == desired
    assert encode_desired(decode_desired(encode_desired(desired))) == encode_desired(desired)


def test_what_is_no_entry_is_refused() -> None:
    raws: Iterable[bytes] = (b"", b"{}", b'{"rollout":"a","event":{"event":"Nonsense","at":1}}')
    for raw in raws:
        with pytest.raises(ValueError, match=r"."):
            decode_entry(raw)


@pytest.mark.parametrize("at", [float("nan"), float("inf"), "now", True])
def test_what_could_not_be_read_back_is_never_written_down(at: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_entry(Entry("digits-1", ClockTick(at=at)))
