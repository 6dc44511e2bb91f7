"""A model may only run on the loop when its own recent runs prove that it is quick."""

from __future__ import annotations

import pytest

from models.signature import Signature, TensorSpec
from serving.channel.pace import QUICK_S, SEEN_MIN, Pace, told_by_rows


def proven(rows: int, seconds: float = QUICK_S / 10) -> Pace:
    pace = Pace()
    for _ in range(SEEN_MIN):
        pace.ran(rows, seconds)
    return pace


def test_nothing_is_quick_before_it_was_seen_often_enough() -> None:
    pace = Pace()
    for _ in range(SEEN_MIN - 1):
        pace.ran(1, 0.0)
        assert not pace.quick(1)
    pace.ran(1, 0.0)
    assert pace.quick(1)


def test_quick_small_batches_say_nothing_about_large_ones() -> None:
    assert not proven(1).quick(64)


def test_a_model_that_takes_too_long_is_not_quick() -> None:
    assert not proven(1, QUICK_S).quick(1)


def test_one_slow_run_ends_the_trust_until_it_has_faded() -> None:
    pace = proven(1)
    pace.ran(1, 2 * QUICK_S)
    assert not pace.quick(1)
    for _ in range(20):
        pace.ran(1, QUICK_S / 10)
    assert pace.quick(1)


def test_after_a_failure_a_size_has_to_prove_itself_anew() -> None:
    pace = proven(4)
    pace.failed(4)
    assert not pace.quick(4)


def test_small_contents_say_nothing_about_large_ones_with_as_many_rows() -> None:
    pace = Pace()
    for _ in range(SEEN_MIN):
        pace.ran(1, 0.0, size_bytes=100)
    assert pace.quick(1, size_bytes=127)
    assert not pace.quick(1, size_bytes=4000)
    pace.failed(1, size_bytes=100)
    assert not pace.quick(1, size_bytes=100)


@pytest.mark.parametrize(
    ("shape", "datatype", "batched", "told"),
    [
        ((-1, 8), "FP32", True, True),
        ((-1, -1), "FP32", True, False),
        ((-1, 1), "BYTES", True, False),
        ((-1, 8), "FP32", False, False),
    ],
)
def test_rows_tell_how_large_a_batch_is_only_where_each_holds_as_much(
    shape: tuple[int, ...], datatype: str, batched: bool, told: bool
) -> None:
    inputs, outputs = (TensorSpec("x", datatype, shape),), (TensorSpec("y", "FP32", (-1, 1)),)
    assert told_by_rows(Signature(inputs, outputs, batched=batched)) == told
