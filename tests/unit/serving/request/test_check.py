from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inference import Tensor
from serving.request.check import form_fault, unfinite
from tests.fakes import DOUBLE


def output(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], datatype: str = "FP32") -> Tensor:
    return Tensor("y", datatype, array)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.data())
def test_the_requests_with_bad_numbers_are_found_and_no_others(rows: list[int], data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    array = np.zeros((sum(rows), 2), np.float32)
    for index in guilty:
        row = sum(rows[:index]) + data.draw(st.integers(0, rows[index] - 1))
        array[row, data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    assert set(unfinite((output(array),), rows, batched=True)) == guilty


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP16", np.array([[1], [np.inf]], np.float16)),
        ("FP32", np.array([[1], [np.nan]], np.float32)),
        ("FP64", np.array([[1], [-np.inf]], np.float64)),
        ("BF16", np.array([[0x3F80], [0x7FC0]], np.uint16)),
    ],
)
def test_every_floating_datatype_is_looked_at(
    datatype: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    assert unfinite((output(array, datatype),), [1, 1], batched=True) == {
        1: "output 'y' holds numbers that aren't finite"
    }


def test_what_is_no_number_is_not_looked_at() -> None:
    words = np.array([[b"nan"]], dtype=object)
    assert (
        unfinite((output(words, "BYTES"), output(np.array([[0x7FC0]], np.uint16), "UINT16")), [1], batched=True) == {}
    )


def test_without_a_batch_dimension_the_one_request_is_guilty() -> None:
    assert list(unfinite((output(np.array(np.nan, np.float32)),), [1], batched=False)) == [0]


def test_a_request_is_told_of_its_first_bad_output_only() -> None:
    bad = np.array([[np.nan]], np.float32)
    assert unfinite((Tensor("a", "FP32", bad), Tensor("b", "FP32", bad)), [1], batched=True) == {
        0: "output 'a' holds numbers that aren't finite"
    }


def test_rows_are_those_of_all_requests_together() -> None:
    outputs = (output(np.zeros((3, 2), np.float32)),)
    assert form_fault(DOUBLE, outputs, [1, 2]) is None
    assert form_fault(DOUBLE, outputs, [1, 1]) == "output 'y' has 3 rows for 2"
