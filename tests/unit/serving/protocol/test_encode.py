"""What an infer response looks like."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from models.inference import DATATYPES, Array, InferenceRequest, InferenceResponse, RequestedOutput, Tensor
from serving.errors import InvalidRequest
from serving.protocol.encode import encode_infer


def tensor(values: Any, datatype: str = "FP32", name: str = "y") -> Tensor:
    return Tensor(name, datatype, np.array(values, dtype=DATATYPES[datatype].dtype))


def request(*outputs: RequestedOutput, binary: bool = False, ident: str | None = None) -> InferenceRequest:
    return InferenceRequest("m", (), id=ident, outputs=outputs, binary_outputs=binary)


def json_body(*outputs: Tensor, asked: InferenceRequest | None = None) -> str:
    encoded = encode_infer(InferenceResponse("m", "2", outputs), asked or request())
    assert encoded.json_length is None
    return encoded.body.decode()


def data_text(*outputs: Tensor) -> str:
    return json_body(*outputs).partition('"data":')[2].removesuffix("}]}")


def test_everything_that_an_answer_says() -> None:
    answer = InferenceResponse("m", "2", (tensor([[0.1, 2]]),), parameters={"degraded": False, "age_ms": None})
    assert json.loads(encode_infer(answer, request(ident="é")).body) == {
        "model_name": "m",
        "model_version": "2",
        "id": "é",
        "parameters": {"degraded": False, "age_ms": None},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 2.0]}],
    }


def test_what_is_not_there_is_left_out() -> None:
    assert list(json.loads(json_body(tensor([1])))) == ["model_name", "model_version", "outputs"]


def test_the_requests_outputs_select_in_the_models_order() -> None:
    outputs = [tensor([1], name=name) for name in "abc"]
    body = json_body(*outputs, asked=request(RequestedOutput("c"), RequestedOutput("a")))
    assert [output["name"] for output in json.loads(body)["outputs"]] == ["a", "c"]


@pytest.mark.parametrize("value", [0.1, 1e-7, 3.4028235e38, 16777216.0, 1 / 3])
def test_a_float32_has_no_more_digits_than_it_needs(value: float) -> None:
    text = data_text(tensor([value]))[1:-1]
    assert np.float32(text) == np.float32(value)
    assert len(text) <= 14


def test_64_bit_integers_are_exact() -> None:
    assert data_text(tensor([-(2**63), 2**53 + 1], "INT64")) == "[-9223372036854775808,9007199254740993]"
    assert data_text(tensor([2**64 - 1], "UINT64")) == "[18446744073709551615]"


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_what_is_not_finite_is_a_literal_and_never_null(datatype: str) -> None:
    values = [float("nan"), 0.1, float("inf"), float("-inf"), -2]
    assert data_text(tensor(values, datatype)) == "[NaN,0.1,Infinity,-Infinity,-2.0]"


def test_a_null_that_was_meant_stays_beside_a_literal() -> None:
    answer = InferenceResponse(
        "null", "1", (tensor([float("nan")]), tensor([b"null"], "BYTES", "z")), parameters={"age_ms": None}
    )
    decoded = json.loads(encode_infer(answer, request()).body)
    assert decoded["parameters"] == {"age_ms": None}
    assert np.isnan(decoded["outputs"][0]["data"][0])
    assert decoded["outputs"][1]["data"] == ["null"]


@pytest.mark.parametrize("array", [np.array(7), np.zeros((0, 3)), np.arange(12.0).reshape(3, 4).T, np.arange(9.0)[::2]])
@pytest.mark.parametrize("binary", [False, True])
def test_any_array_is_written_in_row_major_order(array: Array, binary: bool) -> None:
    array = array.astype(np.float64, order="K")
    body, json_length = encode_infer(InferenceResponse("m", "1", (Tensor("y", "FP64", array),)), request(binary=binary))
    output = json.loads(body[:json_length])["outputs"][0]
    assert output["shape"] == list(array.shape)
    written = np.frombuffer(body[json_length:], "<f8").tolist() if binary else output["data"]
    assert written == array.ravel().tolist()


def test_an_unaligned_array_is_written_too() -> None:
    unaligned = np.ndarray((2,), "<f4", b"\0" + np.array([1, 2], "<f4").tobytes(), offset=1)
    assert not unaligned.flags.aligned
    assert data_text(Tensor("y", "FP32", unaligned)) == "[1.0,2.0]"


def test_binary_for_all_or_for_each() -> None:
    outputs = (tensor([1, 2], "INT16", "a"), tensor([b"\xff", b""], "BYTES", "b"), tensor([True], "BOOL", "c"))
    asked = request(RequestedOutput("a"), RequestedOutput("b", True), RequestedOutput("c", False), binary=True)
    body, json_length = encode_infer(InferenceResponse("m", "1", outputs), asked)
    decoded = json.loads(body[:json_length])["outputs"]
    assert [output.get("parameters") for output in decoded] == [{"binary_data_size": 4}, {"binary_data_size": 9}, None]
    assert decoded[2]["data"] == [True]
    assert body[json_length:] == b"\1\0\2\0" + b"\1\0\0\0\xff\0\0\0\0"


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_are_binary_or_an_error(datatype: str) -> None:
    answer = InferenceResponse("m", "1", (tensor([1, 2], datatype),))
    with pytest.raises(InvalidRequest, match=f"output 'y': {datatype} can only be sent as binary"):
        encode_infer(answer, request())
    body, json_length = encode_infer(answer, request(binary=True))
    assert body[json_length:] == answer.outputs[0].array.tobytes()


def test_bytes_that_are_no_text_are_an_error_and_not_garbage() -> None:
    with pytest.raises(InvalidRequest, match="output 'y': holds bytes that aren't UTF-8"):
        json_body(tensor([b"fine", b"\xff"], "BYTES"))
    assert data_text(tensor([b"fine", "ü\0".encode()], "BYTES")) == '["fine","ü\\u0000"]'
