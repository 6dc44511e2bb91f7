"""Who gets the canary: the same key the same variant, everywhere, and as many as the weight says."""

from __future__ import annotations

import math
import subprocess
import sys
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from serving.routing.split import Coin, lot, mark
from serving.routing.table import Split, Stickiness

keys = st.binary(min_size=1, max_size=256)
epochs = st.text(min_size=1, max_size=20)
weights = st.floats(0, 1)


def coin(weight: float, *, epoch: str = "r1", stickiness: Stickiness = "key", chance: float = 0.5) -> Coin:
    split = Split(version="v2", weight=weight, epoch=epoch, stickiness=stickiness)
    return Coin(split, random=lambda: chance)


@given(keys, epochs)
def test_a_lot_is_a_fraction_below_one(key: bytes, epoch: str) -> None:
    assert 0.0 <= lot(key, epoch) < 1.0


@given(keys, epochs, st.lists(weights, min_size=2, max_size=8))
def test_while_the_weight_grows_a_key_that_came_to_the_canary_stays(key: bytes, epoch: str, steps: list[float]) -> None:
    went = [coin(weight, epoch=epoch).canary(key) for weight in sorted(steps)]
    assert went == sorted(went)


@given(keys, epochs, weights)
def test_the_canary_has_the_lots_below_its_weight(key: bytes, epoch: str, weight: float) -> None:
    assert coin(weight, epoch=epoch).canary(key) == (lot(key, epoch) < weight)


@given(keys, epochs)
def test_with_all_of_the_weight_it_gets_everyone_and_with_none_nobody(key: bytes, epoch: str) -> None:
    for asked in (key, None):
        assert coin(1.0, epoch=epoch, chance=math.nextafter(1.0, 0.0)).canary(asked)
        assert not coin(0.0, epoch=epoch, chance=0.0).canary(asked)


@given(st.integers(0, 2**32), st.sampled_from([0.01, 0.05, 0.25, 0.5, 0.9]))
def test_so_many_keys_go_there_as_the_weight_says(seed: int, weight: float) -> None:
    n = 2000
    thrown = coin(weight, epoch=f"rollout {seed}")
    share = sum(thrown.canary(b"user-%d" % number) for number in range(n)) / n
    assert abs(share - weight) < 6 * math.sqrt(weight * (1 - weight) / n)


@given(st.integers(0, 2**32), st.sampled_from([0.05, 0.5]))
def test_so_many_requests_without_a_key_go_there_too(seed: int, weight: float) -> None:
    n = 2000
    thrown = Coin(Split(version="v2", weight=weight, epoch="r1"), random=Random(seed).random)
    share = sum(thrown.canary(None) for _ in range(n)) / n
    assert abs(share - weight) < 6 * math.sqrt(weight * (1 - weight) / n)


@given(st.integers(0, 2**32))
def test_another_rollout_shuffles_the_keys_anew(seed: int) -> None:
    """Of a tenth of the keys that met one canary, a tenth meets the next one, not all of them."""
    first, second = coin(0.1, epoch=f"{seed} a"), coin(0.1, epoch=f"{seed} b")
    met = [key for key in (b"%d" % number for number in range(5000)) if first.canary(key)]
    again = sum(second.canary(key) for key in met)
    assert abs(again / len(met) - 0.1) < 6 * math.sqrt(0.1 * 0.9 / len(met))


def test_if_keys_are_not_to_count_chance_alone_decides() -> None:
    went = [coin(0.5, stickiness="random", chance=chance).canary(b"a") for chance in (0.4, 0.6)]
    assert went == [True, False]


def test_salt_and_key_do_not_run_together() -> None:
    assert mark(b"bc", "a") != mark(b"c", "ab")


def test_every_process_draws_alike() -> None:
    program = "from serving.routing.split import lot; print([lot(b'user-%d' % n, 'r1') for n in range(20)])"
    drawn = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert drawn == {str([lot(b"user-%d" % number, "r1") for number in range(20)])}


def test_the_lots_of_today_are_those_of_tomorrow() -> None:
    """Gateways of two releases may serve one rollout."""
    assert [round(lot(key, "r1"), 6) for key in (b"ada", b"grace")] == PINNED


PINNED = [0.079155, 0.786492]
