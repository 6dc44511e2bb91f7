"""An incident is sent again bit by bit as it was, and its answer compared value by value."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.inference import DATATYPES, InferenceRequest, InferenceResponse, Tensor
from models.signature import Signature, TensorSpec
from serving.incidents.again import CantBeSent, differences, read_outputs, request_of, shown
from serving.incidents.incident import (
    IncidentReport,
    KeptBody,
    KeptTensor,
    array_of,
    kept_tensor,
    redacted_tensor,
)
from serving.protocol.decode import decode_infer
from serving.protocol.encode import encode_infer

NUMERIC = sorted(name for name, known in DATATYPES.items() if known.kind != "bytes")


def tensor(values: Any, datatype: str = "FP32", name: str = "y") -> KeptTensor:
    return kept_tensor(Tensor(name, datatype, np.array(values, DATATYPES[datatype].dtype)), whole=True)


def report(*inputs: KeptTensor, body: KeptBody | None = None, model: str = "m") -> IncidentReport:
    return IncidentReport(
        id=7,
        wall=1000.0,
        model=model,
        version="v1",
        outcome="model_failed",
        failure="model_failed",
        fault="it broke",
        request_id="",
        seconds=0.1,
        waited_s=0.0,
        attempts=(),
        answered_by="",
        rollout="",
        inputs=inputs,
        outputs=(),
        body=body,
    )


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    if draw(st.booleans()):
        elements = draw(st.lists(st.binary(max_size=5), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
        array = np.empty(len(elements), object)
        array[:] = elements
        return Tensor("x", "BYTES", array.reshape(shape))
    datatype = draw(st.sampled_from(NUMERIC))
    return Tensor("x", datatype, draw(hnp.arrays(DATATYPES[datatype].dtype, shape)))


@given(tensors())
def test_the_request_that_is_sent_decodes_to_the_inputs_that_were(x: Tensor) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(report(kept_tensor(x, whole=True))), type=IncidentReport)
    request = request_of(kept, "v2")
    assert request.path == "/v2/models/m/versions/v2/infer"
    spec = TensorSpec("x", x.datatype, (-1, x.shape[1]))
    signature = Signature((spec,), (TensorSpec("y", "FP32", (-1,)),), batched=True)
    length = int(request.headers["inference-header-content-length"])
    found = decode_infer(request.body, signature=signature, model="m", json_length=length)
    assert (found.id, found.binary_outputs) == ("incident-7", True)
    assert found.inputs[0].array.tobytes() == x.array.tobytes() or np.array_equal(found.inputs[0].array, x.array)


@given(tensors())
def test_the_answer_is_read_as_it_was_written(y: Tensor) -> None:
    response = InferenceResponse("m", "v1", (y,))
    body, length = encode_infer(response, InferenceRequest("m", (), binary_outputs=True))
    (found,) = read_outputs(body, length)
    assert found.raw == kept_tensor(y, whole=True).raw
    assert differences((kept_tensor(y, whole=True),), (found,))[0].same


def test_without_a_version_whatever_answers_now_is_asked_and_no_name_escapes_its_path() -> None:
    assert request_of(report(tensor([[1]])), None).path == "/v2/models/m/infer"
    assert request_of(report(tensor([[1]]), model="a/b"), "../x").path == "/v2/models/a%2Fb/versions/..%2Fx/infer"


def test_bytes_that_could_not_be_read_are_sent_as_they_were() -> None:
    request = request_of(report(body=KeptBody(size_bytes=1, json_length=1, raw=b"{")), "v1")
    assert (request.body, request.headers) == (b"{", {"inference-header-content-length": "1"})


@pytest.mark.parametrize(
    ("incident", "why"),
    [
        (report(redacted_tensor(Tensor("x", "FP32", np.zeros((1, 1), np.float32)))), "input 'x' wasn't kept"),
        (report(kept_tensor(Tensor("x", "FP32", np.zeros((1, 1), np.float32)), whole=False)), "'x' was too large"),
        (report(), "nothing of its request was kept"),
        (report(body=KeptBody(size_bytes=9, left_out="redacted")), "nothing of its request was kept"),
    ],
)
def test_what_was_not_kept_can_not_be_sent(incident: IncidentReport, why: str) -> None:
    with pytest.raises(CantBeSent, match=why):
        request_of(incident, "v1")


def test_a_difference_says_how_many_rows_changed_and_by_how_much() -> None:
    (found,) = differences((tensor([[1, 2], [3, 4]]),), (tensor([[1, 2], [3, 4.5]]),))
    assert (found.same, found.changed, found.rows, found.max_abs) == (False, 1, 2, 0.5)
    (found,) = differences((tensor([3, 7], "INT64"),), (tensor([3, 8], "INT64"),))
    assert (found.same, found.changed, found.rows, found.max_abs) == (False, 1, 2, 1.0)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 2, 3), (3, 0)])
def test_outputs_without_elements_are_the_same(shape: tuple[int, ...]) -> None:
    empty = kept_tensor(Tensor("y", "FP32", np.zeros(shape, np.float32)), whole=True)
    (found,) = differences((empty,), (empty,))
    assert (found.same, found.max_abs, found.changed, found.rows) == (True, 0.0, 0, shape[0])


def test_two_nans_are_the_same_and_a_nan_and_a_number_are_worlds_apart() -> None:
    assert differences((tensor([[np.nan]]),), (tensor([[np.nan]]),))[0].same
    (found,) = differences((tensor([[np.nan, 1]]),), (tensor([[2, 1]]),))
    assert (found.same, found.max_abs) == (False, np.inf)


def test_texts_are_compared_but_have_no_distance() -> None:
    (found,) = differences((tensor([b"a"], "BYTES"),), (tensor([b"b"], "BYTES"),))
    assert (found.same, found.changed, found.max_abs) == (False, 1, None)


def test_what_has_another_shape_or_is_not_there_can_not_be_compared() -> None:
    shape, gone, new = differences(
        (tensor([[1]], name="a"), tensor([[1]], name="b")), (tensor([[1, 2]], name="a"), tensor([[1]], name="c"))
    )
    assert (shape.output, shape.same, shape.rows) == ("a", False, 0)
    assert (gone.output, gone.before is None, gone.after) == ("b", False, None)
    assert (new.output, new.before, new.after is None) == ("c", None, False)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"nothing",
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}',
    ],
)
def test_another_answer_is_an_error_that_says_so(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_outputs(body, None)


def test_people_see_the_first_values() -> None:
    assert shown(tensor([[1, 2.5]])) == "FP32 [1, 2]: 1, 2.5"
    assert shown(tensor([b"a\nb"], "BYTES")) == r"BYTES [1]: 'a\nb'"
    assert shown(tensor(list(range(20)), "INT8"), most=2) == "INT8 [20]: 0, 1, and 18 more"
    assert shown(kept_tensor(Tensor("x", "FP32", np.zeros(1, np.float32)), whole=False)).endswith(
        "too large to be kept"
    )


def test_bytes_that_are_no_such_tensor_are_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes for FP64"):
        array_of(KeptTensor(name="x", datatype="FP64", shape=(1,), raw=bytes(4)))
