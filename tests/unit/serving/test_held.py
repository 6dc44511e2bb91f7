"""What is kept of a tensor is as little as can be, and counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inference import Array, Tensor
from serving.held import COPY_BELOW_BYTES, held_bytes, kept


def test_an_answer_cut_from_a_batch_does_not_keep_the_batch() -> None:
    batch = np.zeros((64, 10), np.float32)
    (tensor,), size = kept((Tensor("y", "FP32", batch[3:4]),))
    assert tensor.array.base is None
    assert size == 40
    words = np.array([b"x" * 100] * 64, object)
    (tensor,), size = kept((Tensor("y", "BYTES", words[3:4]),))
    assert tensor.array.base is None
    assert 100 < size < 200


def test_what_is_too_large_to_copy_counts_with_all_that_it_keeps() -> None:
    frame = memoryview(bytes(8 * COPY_BELOW_BYTES))
    batch = np.ndarray((4, COPY_BELOW_BYTES // 2), "<f4", frame)
    (tensor,), size = kept((Tensor("y", "FP32", batch[1:2]),))
    assert tensor.array.base is not None
    assert size == len(frame)


@pytest.mark.parametrize("size", [8, 2 * COPY_BELOW_BYTES])
def test_a_view_on_a_whole_body_neither_keeps_it_unseen_nor_for_a_few_bytes(size: int) -> None:
    """As binary tensors lie in a request's bytes."""
    body = bytes(8 * COPY_BELOW_BYTES)
    array = np.frombuffer(body, np.uint8, size, 64)
    base: object = array.base
    assert base is body
    (tensor,), counted = kept((Tensor("x", "UINT8", array),))
    if size <= COPY_BELOW_BYTES:
        assert (tensor.array.base, counted) == (None, size)
    else:
        assert (tensor.array is array, counted) == (True, len(body))
    np.testing.assert_array_equal(tensor.array, array)


def test_an_array_of_its_own_stays_as_it_is() -> None:
    own = np.zeros(10, np.float32)
    packed = np.ndarray((10,), "<f4", bytes(40))
    tensors, size = kept((Tensor("a", "FP32", own), Tensor("b", "FP32", packed)))
    assert tensors[0].array is own
    assert tensors[1].array is packed
    assert size == 80


WHOLES: dict[str, Callable[[int], Array]] = {
    "an array": lambda size: np.zeros(size, np.uint8),
    "a frame": lambda size: np.frombuffer(bytearray(size), np.uint8),
    "a body": lambda size: np.frombuffer(bytes(size), np.uint8),
}


@given(st.lists(st.integers(1, 3 * COPY_BELOW_BYTES), min_size=1, max_size=4), st.sampled_from(sorted(WHOLES)))
def test_the_bytes_that_count_are_never_fewer_than_those_that_are_kept(sizes: list[int], kind: str) -> None:
    tensors = []
    for index, size in enumerate(sizes):
        whole = WHOLES[kind](2 * size)
        tensors.append(Tensor(f"t{index}", "UINT8", whole[:size]))
    mine, counted = kept(tuple(tensors))
    assert counted >= sum(held_bytes(tensor.array) for tensor in mine)
    for tensor, kept_one in zip(tensors, mine, strict=True):
        np.testing.assert_array_equal(tensor.array, kept_one.array)
