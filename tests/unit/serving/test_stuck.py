"""What hangs is told from what is slow because the whole machine is."""

from __future__ import annotations

from serving.stuck import Stuck

TURN_S = 0.25


def stuck() -> Stuck:
    return Stuck(5.0, turn_max_s=2 * TURN_S)


def turns_until_noticed(judge: Stuck, thing: object, *, elapsed_s: float = TURN_S) -> int:
    for turn in range(1, 1000):
        if judge.turn(thing, elapsed_s):
            return turn
    raise AssertionError("it was never noticed")


def test_one_thing_that_stays_under_way_is_noticed_after_the_limit() -> None:
    turns = turns_until_noticed(stuck(), "run 1")
    assert 5.0 < turns * TURN_S <= 5.0 + 2 * TURN_S


def test_many_things_one_after_the_other_are_work_not_a_hang() -> None:
    judge = stuck()
    assert not any(judge.turn(f"run {number // 18}", TURN_S) for number in range(1000))  # each takes 4.5 s


def test_rest_in_between_begins_the_count_anew() -> None:
    judge = stuck()
    for _ in range(10):
        assert not any(judge.turn("run", TURN_S) for _ in range(19))
        assert not judge.turn(None, TURN_S)


def test_a_machine_that_stood_still_for_an_hour_counts_as_one_late_turn() -> None:
    judge = stuck()
    judge.turn("run", TURN_S)
    assert not judge.turn("run", 3600.0)
    assert turns_until_noticed(judge, "run") * TURN_S > 5.0 - 2 * TURN_S
