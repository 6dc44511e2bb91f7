"""tritonclient's own code makes our requests and reads our answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http._utils import _get_error
from tritonclient.utils import np_to_triton_dtype

from models.inference import DATATYPES, Array, InferenceRequest, InferenceResponse, RequestedOutput, Tensor
from models.signature import Signature, TensorSpec
from serving.errors import InvalidRequest
from serving.protocol.compression import compress
from serving.protocol.decode import RequestDecoder
from serving.protocol.encode import encode_infer
from serving.protocol.status import error_response

ARRAYS: dict[str, Array] = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT64": np.array([[2**64 - 1, 2**53 + 1]], np.uint64),
    "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "INT64": np.array([[-(2**63), 2**53 + 1]], np.int64),
    "FP16": np.array([[0.5, np.nan]], np.float16),
    "FP32": np.array([[0.1, np.inf]], np.float32),
    "FP64": np.array([[0.1, -np.inf]], np.float64),
    "BYTES": np.array([["kelp", "ü"]], dtype=object),
}
OUTPUTS = (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("label", "BYTES", (-1, 1)))


def decoder_for(datatype: str) -> RequestDecoder:
    return RequestDecoder("m", Signature((TensorSpec("x", datatype, (-1, 2)),), OUTPUTS, batched=True))


def client_request(datatype: str, binary: bool, **options: Any) -> tuple[bytes, int | None]:
    sent = triton.InferInput("x", list(ARRAYS[datatype].shape), datatype)
    sent.set_data_from_numpy(ARRAYS[datatype], binary_data=binary)
    body, json_length = triton.InferenceServerClient.generate_request_body([sent], **options)
    return bytes(body), json_length


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", ARRAYS)
def test_its_requests_are_read(datatype: str, binary: bool) -> None:
    body, json_length = client_request(datatype, binary, request_id="9", timeout=5000, priority=2)
    assert (json_length is not None) is binary
    if datatype == "FP16" and not binary:
        with pytest.raises(InvalidRequest, match="FP16 can only be sent as binary"):
            decoder_for(datatype).decode(body)
        return
    request = decoder_for(datatype).decode(body, json_length=json_length)
    expected = np.array([[b"kelp", "ü".encode()]], object) if datatype == "BYTES" else ARRAYS[datatype]
    np.testing.assert_array_equal(request.inputs[0].array, expected)
    assert request.inputs[0].array.dtype == DATATYPES[datatype].dtype
    assert (request.id, request.rows, request.binary_outputs) == ("9", 1, True)
    assert (request.parameters["timeout"], request.parameters["priority"]) == (5000, 2)


def test_the_outputs_it_asks_for_are_known() -> None:
    wanted = [triton.InferRequestedOutput("y", binary_data=False), triton.InferRequestedOutput("label")]
    body, json_length = client_request("FP32", True, outputs=wanted)
    request = decoder_for("FP32").decode(body, json_length=json_length)
    assert request.outputs == (RequestedOutput("y", False), RequestedOutput("label", True))
    assert not request.binary_outputs


def test_its_classification_is_refused_clearly() -> None:
    body, json_length = client_request("FP32", True, outputs=[triton.InferRequestedOutput("y", class_count=3)])
    with pytest.raises(InvalidRequest, match="classification of outputs isn't supported"):
        decoder_for("FP32").decode(body, json_length=json_length)


@given(binary=st.lists(st.booleans(), min_size=len(ARRAYS), max_size=len(ARRAYS)))
@settings(deadline=None)
def test_it_reads_our_answers(binary: list[bool]) -> None:
    outputs = []
    for datatype, array in ARRAYS.items():
        kept = np.array([[b"kelp", "ü".encode()]], object) if datatype == "BYTES" else array
        outputs.append(Tensor(f"out {datatype}", datatype, kept))
    asked = InferenceRequest(
        "m",
        (),
        id="5",
        outputs=tuple(
            RequestedOutput(tensor.name, each or tensor.datatype == "FP16")
            for tensor, each in zip(outputs, binary, strict=True)
        ),
    )
    body, json_length = encode_infer(InferenceResponse("m", "3", tuple(outputs)), asked)
    result = triton.InferenceServerClient.parse_response_body(body, header_length=json_length)
    assert {key: result.get_response()[key] for key in ("id", "model_name", "model_version")} == {
        "id": "5",
        "model_name": "m",
        "model_version": "3",
    }
    for tensor, each in zip(outputs, binary, strict=True):
        theirs = result.as_numpy(tensor.name)
        if tensor.datatype == "BYTES":
            text = [element.decode() if each else element for element in theirs.ravel()]
            assert text == ["kelp", "ü"]
        else:
            assert np_to_triton_dtype(theirs.dtype) == tensor.datatype
            np.testing.assert_array_equal(theirs, tensor.array)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_it_reads_our_compressed_answers(encoding: str) -> None:
    array = np.arange(3000, dtype=np.float32).reshape(1, 3000)
    asked = InferenceRequest("m", (), binary_outputs=True)
    body, json_length = encode_infer(InferenceResponse("m", "1", (Tensor("y", "FP32", array),)), asked)
    packed, chosen = compress(body, encoding)
    result = triton.InferenceServerClient.parse_response_body(
        packed, header_length=json_length, content_encoding=chosen
    )
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_it_reads_our_errors() -> None:
    status, _, body = error_response(InvalidRequest("input 'x': missing"))
    error = _get_error(SimpleNamespace(status_code=status, read=lambda: body))
    assert (error.message(), error.status()) == ("input 'x': missing", "400")
