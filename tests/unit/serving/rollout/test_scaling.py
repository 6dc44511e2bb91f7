"""Replicas are as many as the work needs, neither for ever growing nor coming and going at the edge."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rollout.scaling import DEMAND, policy, wanted_replicas


@pytest.mark.parametrize(
    ("demands", "current", "wanted"),
    [
        ([0.0], 1, 1),
        ([32.0], 1, 1),
        ([33.0], 1, 2),
        ([96.1], 1, 4),
        ([48.0, 48.0], 2, 3),
        ([16.0, 15.0], 2, 2),  # 31 would just fit one; it has to be below 0.9 of that
        ([14.0, 14.0], 2, 1),
        ([0.0, 0.0, 0.0], 3, 1),
    ],
)
def test_the_demand_on_each_is_brought_to_the_target(demands: list[float], current: int, wanted: int) -> None:
    assert wanted_replicas(demands, running=len(demands), current=current, target=32.0) == wanted


def test_replicas_that_have_not_reported_yet_are_taken_to_have_as_much_as_the_others() -> None:
    assert wanted_replicas([30.0], running=3, current=3, target=32.0) == 3


def test_while_nothing_is_known_nothing_changes() -> None:
    assert wanted_replicas([], running=0, current=4, target=32.0) == 4


@given(total=st.floats(0, 1e6), current=st.integers(1, 64), target=st.floats(0.5, 1000))
def test_a_steady_load_comes_to_rest_at_a_number_that_carries_it(total: float, current: int, target: float) -> None:
    once = wanted_replicas([total / current] * current, running=current, current=current, target=target)
    twice = wanted_replicas([total / once] * once, running=once, current=once, target=target)
    assert twice == once
    assert total / once <= target * (1 + 1e-9)


class Config(NamedTuple):
    target: float

    def get_target_ongoing_requests(self) -> float:
        return self.target


class Context(NamedTuple):
    aggregated_metrics: dict[str, dict[Any, float]] | None
    current_num_replicas: int = 2
    target_num_replicas: int = 2
    config: Config = Config(10.0)


def test_serve_asks_with_its_context() -> None:
    assert policy(Context({DEMAND: {"r1": 25.0, "r2": 20.0}})) == (5, {})
    assert policy(Context({})) == (2, {})
    assert policy(Context(None)) == (2, {})
