"""When requests are due, and who asks."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from loadtests.users.load import BURST, Arrival, Load, Shape, Users, arrivals, rate_at

CALM_S = 5.0


def load(shape: Shape = "steady", **users: int) -> Load:
    return Load(rate=100, seconds=65, shape=shape, users=Users(**(users or {"json": 1})))


def sent(of: Load, seed: int = 0) -> list[Arrival]:
    return list(arrivals(of, random.Random(seed), calm_s=CALM_S))


def a_second(found: list[Arrival], from_s: float, to_s: float) -> float:
    return sum(from_s <= arrival.due_s < to_s for arrival in found) / (to_s - from_s)


def test_a_steady_load_is_due_at_one_rate_until_its_end() -> None:
    found = sent(load())
    assert len(found) == pytest.approx(6500, abs=1)
    assert found[-1].due_s < 65
    gaps = [later.due_s - earlier.due_s for earlier, later in itertools.pairwise(found)]
    assert min(gaps) == pytest.approx(max(gaps)) == pytest.approx(0.01)


def test_the_same_seed_sends_the_same_people() -> None:
    mixed = load(json=2, binary=1, bursts=1)
    assert sent(mixed, 3) == sent(mixed, 3) != sent(mixed, 4)


def test_everybody_has_their_share_of_the_requests_bursts_too() -> None:
    counts = Counter(arrival.user for arrival in sent(load(json=5, binary=3, bursts=2)))
    total = sum(counts.values())
    assert total == pytest.approx(6500, rel=0.01)
    for user, share in {"json": 0.5, "binary": 0.3, "bursts": 0.2}.items():
        assert counts[user] / total == pytest.approx(share, abs=0.05)


def test_a_burst_is_due_at_one_moment() -> None:
    moments = Counter(arrival.due_s for arrival in sent(load(bursts=1)))
    assert set(moments.values()) == {BURST}


def test_no_two_requests_have_the_same_number() -> None:
    found = sent(load(json=1, bursts=1))
    assert [arrival.number for arrival in found] == list(range(len(found)))


def test_a_ramp_goes_up_to_the_rate() -> None:
    found = sent(load("ramp"))
    assert a_second(found, 0, 5) == pytest.approx(25, rel=0.1)
    assert a_second(found, 60, 65) == pytest.approx(97, rel=0.05)


def test_a_spike_is_in_the_middle_and_passes() -> None:
    found = sent(load("spike"))
    assert a_second(found, 0, 29) == pytest.approx(100, rel=0.02)
    assert a_second(found, 29.1, 41) == pytest.approx(300, rel=0.02)
    assert a_second(found, 41.1, 65) == pytest.approx(100, rel=0.02)


def test_a_day_has_its_night_at_both_ends() -> None:
    rates = [rate_at(load("diurnal"), at_s, calm_s=CALM_S) for at_s in (0, 35, 65)]
    assert rates == pytest.approx([30, 100, 30])


def test_overload_begins_when_calm_is_over() -> None:
    found = sent(load("overload"))
    assert a_second(found, 0, 4.9) == pytest.approx(50, rel=0.05)
    assert a_second(found, 5.1, 65) == pytest.approx(300, rel=0.02)


def test_a_load_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody asks"):
        Users()
