from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inference import InferenceRequest, Tensor
from models.signature import Signature, TensorSpec
from serving.channel.work import Answer, Work, without
from serving.request.batch import answered_rows, batch_key, fixed_shapes, join, request_bytes, split
from tests.fakes import DOUBLE, request_of, values_of


@given(st.lists(st.lists(st.integers(0, 1000), max_size=4), min_size=1, max_size=8))
def test_what_is_joined_comes_apart_as_it_was(requests: list[list[int]]) -> None:
    work = join([request_of(*values) for values in requests], [float(n) for n in range(len(requests))])
    assert work.rows == tuple(map(len, requests))
    assert work.deadlines == tuple(range(len(requests)))
    assert values_of(work.inputs) == [value for values in requests for value in values]
    assert [values_of(part) for part in split(work.inputs, work.rows)] == requests


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_dropped_requests_take_their_rows_with_them(rows: list[int], data: st.DataObject) -> None:
    dropped = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=len(rows) - 1))
    values = [[float(10 * index + row) for row in range(count)] for index, count in enumerate(rows)]
    work = join([request_of(*each) for each in values], [0.0] * len(rows))
    rest = without(work, dropped)
    answer = Answer(rest.inputs, tuple(dropped))
    assert list(rest.rows) == answered_rows(rows, answer)
    kept = [each for index, each in enumerate(values) if index not in dropped]
    assert [values_of(part) for part in split(answer.outputs, answered_rows(rows, answer))] == kept


def test_every_input_is_joined_with_its_namesake() -> None:
    def request(value: float) -> InferenceRequest:
        inputs = tuple(
            Tensor(name, "FP32", np.full((1, 1), value * sign, np.float32)) for name, sign in [("a", 1), ("b", -1)]
        )
        return InferenceRequest("m", inputs)

    work = join([request(1), request(2)], [0, 0])
    assert [(each.name, each.array.ravel().tolist()) for each in work.inputs] == [("a", [1, 2]), ("b", [-1, -2])]


def test_a_lone_request_is_not_copied_and_an_answers_parts_are_views() -> None:
    request = request_of(1, 2)
    assert join([request], [0]).inputs is request.inputs
    outputs = request.inputs
    for part in split(outputs, [1, 1]):
        assert np.shares_memory(part[0].array, outputs[0].array)


@pytest.mark.parametrize(
    ("shape", "batched", "fixed"),
    [((-1, 2), True, True), ((-1,), True, True), ((-1, -1), True, False), ((-1, 2), False, False)],
)
def test_only_shapes_without_a_variable_dimension_always_fit_together(
    shape: tuple[int, ...], batched: bool, fixed: bool
) -> None:
    signature = Signature((TensorSpec("x", "FP32", shape),), DOUBLE.outputs, batched=batched)
    assert fixed_shapes(signature) == fixed


def test_requests_have_one_key_if_they_differ_in_rows_only() -> None:
    narrow, wide = request_of(1, width=2), request_of(1, width=3)
    assert batch_key(narrow, fixed=False) == batch_key(request_of(1, 2, width=2), fixed=False)
    assert batch_key(narrow, fixed=False) != batch_key(wide, fixed=False)
    assert batch_key(narrow, fixed=True) == batch_key(wide, fixed=True)


def test_the_bytes_of_a_request_are_those_that_it_carries() -> None:
    words = np.array([[b"abc"], [b""]], dtype=object)
    tensors = (Tensor("x", "FP16", np.zeros((2, 3), np.float16)), Tensor("s", "BYTES", words))
    assert request_bytes(InferenceRequest("m", tensors, rows=2)) == 2 * 3 * 2 + (4 + 3) + 4


def test_work_without_a_request_keeps_the_others_deadlines() -> None:
    work = Work(request_of(1, 2, 3).inputs, (1, 1, 1), (1.0, 2.0, 3.0))
    assert without(work, {1}).deadlines == (1.0, 3.0)
