from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.request.ejection import JUDGE_CALLS, EjectionLimits, Outliers
from serving.request.outlier import TRIAL_CALLS
from tests.fakes import FakeClock

LIMITS = EjectionLimits(
    enabled=True,
    window_s=10.0,
    min_calls=10,
    bad_share=0.2,
    slow_factor=4.0,
    interval_s=2.0,
    interval_max_s=16.0,
    max_share=0.5,
)


class Fleet:
    """Replicas r0, r1, ... of which the one whose turn it is gets a request, if it isn't ejected."""

    def __init__(self, replicas: int, limits: EjectionLimits = LIMITS) -> None:
        self.clock = FakeClock()
        self.outliers = Outliers(limits, clock=self.clock)
        self.names = [f"r{number}" for number in range(replicas)]
        for name in self.names:
            self.outliers.joined(name)

    def calls(self, name: str, number: int = 1, *, good: int = 1, bad: int = 0, seconds: float = 0.002) -> None:
        for _ in range(number):
            self.clock.advance(seconds)
            self.outliers.observed(name, good=good, bad=bad, seconds=seconds)

    def serve(
        self, seconds: float, *, bad: Callable[[str], bool] = lambda _: False, slow: frozenset[str] = frozenset()
    ) -> int:
        """Traffic for so long; how many requests went badly."""
        until, failed, turn = self.clock.now + seconds, 0, 0
        while self.clock.now < until:
            turn += 1
            name = self.names[turn % len(self.names)]
            if not self.outliers.ejected(name):
                went_badly = bad(name)
                failed += went_badly
                took = 0.05 if name in slow else 0.002
                self.calls(name, good=not went_badly, bad=went_badly, seconds=took)
            self.clock.advance(0.01)
        return failed

    @property
    def out(self) -> list[str]:
        return [name for name in self.names if self.outliers.ejected(name)]


def only(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def by_chance(share: float, chance: Random) -> Callable[[str], bool]:
    return lambda _: chance.random() < share


class TestWhoIsEjected:
    def test_one_of_three_that_fails(self) -> None:
        fleet = Fleet(3)
        failed = fleet.serve(1.5, bad=only("r1"))
        assert fleet.out == ["r1"]
        assert failed <= 10 + JUDGE_CALLS
        assert fleet.outliers.any_ejected

    def test_one_that_begins_to_fail_after_a_long_good_time(self) -> None:
        fleet = Fleet(3)
        fleet.serve(30)
        fleet.serve(1.5, bad=only("r1"))
        assert fleet.out == ["r1"]

    def test_one_that_becomes_slow_after_a_long_quick_time(self) -> None:
        fleet = Fleet(3)
        fleet.serve(30)
        fleet.serve(2, slow=frozenset({"r1"}))
        assert fleet.out == ["r1"]

    def test_one_that_fails_a_third_of_the_time(self) -> None:
        fleet = Fleet(3)
        unlucky = by_chance(0.33, Random(1))
        fleet.serve(5, bad=lambda name: name == "r1" and unlucky(name))
        assert fleet.outliers.status()[1].ejections

    def test_one_of_three_that_is_ten_times_slower(self) -> None:
        fleet = Fleet(3)
        fleet.serve(2, slow=frozenset({"r2"}))
        assert fleet.out == ["r2"]
        assert fleet.outliers.status()[2].why == "a batch took 50.0 ms, its siblings' 2.0 ms"

    def test_one_whose_pings_are_lost(self) -> None:
        fleet = Fleet(2)
        fleet.calls("r0", 20)
        fleet.outliers.lost_ping("r1")
        assert fleet.out == []
        fleet.outliers.lost_ping("r1")
        assert fleet.out == ["r1"]

    def test_one_that_gets_all_the_work_when_nothing_is_known_of_the_others(self) -> None:
        fleet = Fleet(2)
        fleet.calls("r0", 10 + JUDGE_CALLS, good=0, bad=1)
        assert fleet.out == ["r0"]

    def test_two_of_four_though_they_answer_quickly_and_get_most_of_the_work(self) -> None:
        fleet = Fleet(4)
        for _ in range(30):
            for name, bad in (("r0", 9), ("r1", 9), ("r2", 0), ("r3", 0)):
                fleet.calls(name, good=not bad, bad=bad)
        assert fleet.out == ["r0", "r1"]

    def test_the_worst_first(self) -> None:
        fleet = Fleet(3, dataclasses.replace(LIMITS, min_calls=60))
        for _ in range(60):
            fleet.calls("r0", good=1, bad=1, seconds=0.0001)
            fleet.calls("r1", good=0, bad=2, seconds=0.0001)
            fleet.calls("r2", good=2, seconds=0.0001)
        assert fleet.out == ["r1"]
        assert fleet.outliers.status()[1].why.endswith("calls went badly, of its siblings' 0%")

    def test_nobody_while_protection_is_switched_off(self) -> None:
        fleet = Fleet(3, dataclasses.replace(LIMITS, enabled=False))
        assert fleet.serve(2, bad=only("r1")) > 50
        assert not fleet.outliers.any_ejected


class TestWhoIsNot:
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 1.0])
    def test_nobody_when_the_version_is_bad_as_a_whole(self, share: float) -> None:
        for seed in range(30):
            fleet = Fleet(3)
            fleet.serve(5, bad=by_chance(share, Random(seed)))
            assert [status.ejections for status in fleet.outliers.status()] == [0, 0, 0], f"seed {seed}"

    def test_nobody_when_all_are_slow(self) -> None:
        fleet = Fleet(3)
        fleet.serve(5, slow=frozenset(fleet.names))
        assert fleet.out == []

    def test_not_one_that_was_slow_once(self) -> None:
        fleet = Fleet(3)
        fleet.serve(1)
        fleet.calls("r1", seconds=3.0)
        fleet.serve(1)
        assert fleet.out == []

    @pytest.mark.parametrize(("quick_s", "slower_s"), [(0.0001, 0.0049), (0.0012, 0.0061)])
    def test_not_one_that_is_slower_by_next_to_nothing(self, quick_s: float, slower_s: float) -> None:
        fleet = Fleet(2)
        for _ in range(100):
            fleet.calls("r0", seconds=quick_s)
            fleet.calls("r1", seconds=slower_s)
        assert fleet.out == []

    def test_not_for_fewer_calls_than_it_takes(self) -> None:
        fleet = Fleet(2)
        fleet.calls("r0", 50)
        fleet.calls("r1", 9, good=0, bad=1)
        fleet.calls("r0", 50)
        assert fleet.out == []

    def test_not_one_of_which_nobody_knows(self) -> None:
        fleet = Fleet(2)
        fleet.calls("stranger", 100, good=0, bad=1)
        fleet.outliers.lost_ping("stranger")
        fleet.outliers.left("stranger")
        assert not fleet.outliers.ejected("stranger")
        assert fleet.outliers.ejected_for("stranger") == 0.0
        assert len(fleet.outliers.status()) == 2

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40), st.floats(0.002, 0.0079)), max_size=200))
    def test_nobody_of_a_healthy_fleet(self, script: list[tuple[int, int, float]]) -> None:
        fleet = Fleet(5)
        for replica, good, seconds in script:
            fleet.calls(f"r{replica}", good=good, seconds=seconds)
            assert not fleet.outliers.any_ejected

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.floats(0, 60)), max_size=60))
    def test_never_the_only_one(self, script: list[tuple[int, int, float]]) -> None:
        fleet = Fleet(1)
        for good, bad, seconds in script:
            fleet.calls("r0", good=good, bad=bad, seconds=seconds)
            fleet.outliers.lost_ping("r0")
            assert not fleet.outliers.any_ejected


@settings(deadline=None)
@given(st.integers(2, 8), st.data(), st.integers(1, 16))
def test_a_clearly_bad_one_is_ejected_after_a_bounded_number_of_calls(
    replicas: int, data: st.DataObject, batch: int
) -> None:
    """Whatever its siblings did well before or do meanwhile."""
    fleet = Fleet(replicas)
    script = data.draw(st.lists(st.tuples(st.integers(1, replicas - 1), st.integers(1, 16)), max_size=40))
    bad = 0
    for sibling, good in [*script, *[(1, 1)] * 30]:
        fleet.calls(f"r{sibling}", good=good)
        if not fleet.out:
            fleet.calls("r0", good=0, bad=batch)
            bad += batch
    assert fleet.out == ["r0"]
    assert bad <= LIMITS.min_calls + JUDGE_CALLS + batch


class TestComingBack:
    def test_it_gets_work_again_when_its_interval_is_over(self) -> None:
        fleet = Fleet(3)
        fleet.serve(0.5, bad=only("r1"))
        fleet.clock.advance(2.0)
        assert fleet.out == []
        assert not fleet.outliers.any_ejected

    def test_a_trial_of_few_calls_finds_it_still_bad_and_each_interval_is_longer(self) -> None:
        fleet = Fleet(3)
        fleet.serve(0.5, bad=only("r1"))
        intervals = []
        for _ in range(5):
            assert fleet.out == ["r1"]
            back_in = fleet.outliers.status()[1].back_in_s
            fleet.clock.advance(back_in)
            intervals.append(back_in)
            fleet.serve(0.01, bad=only("r1"))
            before = fleet.outliers.status()[1]
            assert not before.ejected
            failed = fleet.serve(0.5, bad=only("r1"))
            assert failed <= TRIAL_CALLS + JUDGE_CALLS / 3 + 1
        assert [round(interval) for interval in intervals] == [2, 4, 8, 16, 16]

    def test_what_was_sent_before_it_was_ejected_is_no_part_of_its_trial(self) -> None:
        fleet = Fleet(3)
        fleet.serve(0.5, bad=only("r1"))
        fleet.clock.advance(2.5)
        assert fleet.out == []
        for _ in range(30):
            fleet.outliers.observed("r1", good=0, bad=1, seconds=10.0)
        fleet.serve(0.5)
        assert fleet.out == []
        assert fleet.outliers.status()[1].bad == 0

    def test_a_long_good_spell_makes_the_interval_short_again(self) -> None:
        fleet = Fleet(3)
        fleet.serve(14, bad=only("r1"))
        assert fleet.outliers.status()[1].ejections == 3
        fleet.serve(60)
        fleet.serve(1, bad=only("r1"))
        assert fleet.out == ["r1"]
        assert fleet.outliers.status()[1].back_in_s <= 2.0

    def test_how_long_it_has_been_out_grows_over_trials_until_it_is_well(self) -> None:
        fleet = Fleet(3)
        assert fleet.outliers.ejected_for("r1") == 0.0
        fleet.serve(20, bad=only("r1"))
        assert 10 < fleet.outliers.ejected_for("r1") < 20
        fleet.serve(15)
        assert fleet.out == []
        assert fleet.outliers.ejected_for("r1") == 0.0
        assert fleet.outliers.ejected_for("r0") == 0.0

    def test_waiting_for_work_is_not_held_against_it(self) -> None:
        fleet = Fleet(3)
        fleet.serve(0.5, bad=only("r1"))
        fleet.clock.advance(3600)
        assert fleet.outliers.ejected_for("r1") == pytest.approx(2.0)
        fleet.serve(1)
        assert fleet.outliers.ejected_for("r1") == 0.0

    def test_when_siblings_leave_so_many_come_back_that_enough_are_there(self) -> None:
        fleet = Fleet(4)
        fleet.serve(1, bad=only("r0", "r1"))
        assert fleet.out == ["r0", "r1"]
        fleet.outliers.left("r2")
        assert len(fleet.out) == 1
        fleet.outliers.left("r3")
        assert len(fleet.out) == 1
        fleet.outliers.left("r0")
        assert fleet.out == []

    def test_one_that_left_is_forgotten(self) -> None:
        fleet = Fleet(2)
        fleet.serve(0.5, bad=only("r1"))
        fleet.outliers.left("r1")
        assert not fleet.outliers.any_ejected
        fleet.outliers.joined("r1")
        assert fleet.out == []
        assert fleet.outliers.status()[1].ejections == 0


class EjectionMachine(RuleBasedStateMachine):
    """Replicas come and go and do whatever they like."""

    names = st.sampled_from([f"r{number}" for number in range(6)])

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.outliers = Outliers(LIMITS, clock=self.clock)
        self.there: set[str] = set()

    @rule(name=names)
    def joins(self, name: str) -> None:
        self.outliers.joined(name)
        self.there.add(name)

    @rule(name=names)
    def leaves(self, name: str) -> None:
        self.outliers.left(name)
        self.there.discard(name)

    @rule(name=names, good=st.integers(0, 20), bad=st.integers(0, 20), seconds=st.sampled_from([0.0, 0.001, 0.1, 9.0]))
    def answers(self, name: str, good: int, bad: int, seconds: float) -> None:
        self.outliers.observed(name, good=good, bad=bad, seconds=seconds)

    @rule(name=names, number=st.integers(5, 30))
    def fails(self, name: str, number: int) -> None:
        for _ in range(number):
            self.outliers.observed(name, good=0, bad=1, seconds=0.0)

    @rule(name=names)
    def loses_a_ping(self, name: str) -> None:
        self.outliers.lost_ping(name)

    @rule(seconds=st.sampled_from([0.01, 0.06, 1.0, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def no_more_are_out_than_may_be(self) -> None:
        out = {name for name in self.there if self.outliers.ejected(name)}
        assert len(out) <= len(self.there) // 2
        assert self.outliers.any_ejected == bool(out)
        assert {status.replica_id for status in self.outliers.status() if status.ejected} == out
        assert all(self.outliers.ejected_for(name) >= 0 for name in self.there)

    def teardown(self) -> None:
        """Whoever is out comes back."""
        self.clock.advance(LIMITS.interval_max_s)
        assert not self.outliers.any_ejected


TestWhateverComesAndGoes = EjectionMachine.TestCase
TestWhateverComesAndGoes.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
