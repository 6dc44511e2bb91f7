"""What holds for every tensor and every byte string: nothing is lost on the wire, nothing but ``InvalidRequest``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.inference import (
    DATATYPES,
    Array,
    InferenceRequest,
    InferenceResponse,
    RequestedOutput,
    Tensor,
    Tensors,
)
from models.signature import Signature, TensorSpec
from serving.errors import InvalidRequest
from serving.protocol.decode import RequestDecoder
from serving.protocol.elements import BINARY_ONLY
from serving.protocol.encode import EncodedBody, encode_infer

# How long an example takes says something about the machine, nothing about the codec.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ANSWER = (TensorSpec("y", "FP32", (-1, 3)),)


def bytes_array(shape: tuple[int, ...], elements: st.SearchStrategy[bytes]) -> st.SearchStrategy[Array]:
    def filled(values: list[bytes]) -> Array:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array.reshape(shape)

    count = int(np.prod(shape))
    return st.lists(elements, min_size=count, max_size=count).map(filled)


@st.composite
def tensors(draw: st.DrawFn, *, text_only: bool = False) -> Tensors:
    """One to three tensors of any datatype and up to three dimensions, none of them empty."""
    made = []
    for index in range(draw(st.integers(1, 3))):
        names = sorted(DATATYPES.keys() - BINARY_ONLY) if text_only else sorted(DATATYPES)
        datatype = draw(st.sampled_from(names))
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, max_side=3))
        if datatype == "BYTES":
            elements = st.text(max_size=4).map(str.encode) if text_only else st.binary(max_size=4)
            array = draw(bytes_array(shape, elements))
        else:
            array = draw(arrays.arrays(DATATYPES[datatype].dtype, shape))
        made.append(Tensor(f"t{index}", datatype, array))
    return tuple(made)


def signature_of(some: Tensors) -> Signature:
    specs = tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in some)
    return Signature(specs, ANSWER)


def as_request(encoded: EncodedBody) -> tuple[bytes, int | None]:
    """The request that sends an answer's outputs back as inputs: both have the same form."""
    length = len(encoded.body) if encoded.json_length is None else encoded.json_length
    head = json.dumps({"inputs": json.loads(encoded.body[:length])["outputs"]}).encode()
    return head + encoded.body[length:], None if encoded.json_length is None else len(head)


def sent_and_back(some: Tensors, binary: dict[str, bool]) -> Tensors:
    wanted = tuple(RequestedOutput(name, binary[name]) for name in binary)
    request = InferenceRequest("m", (), outputs=wanted)
    body, json_length = as_request(encode_infer(InferenceResponse("m", "1", some), request))
    return RequestDecoder("m", signature_of(some)).decode(body, json_length=json_length).inputs


def assert_same(mine: Tensors, theirs: Tensors) -> None:
    assert [(each.name, each.datatype, each.shape) for each in mine] == [
        (each.name, each.datatype, each.shape) for each in theirs
    ]
    for one, other in zip(mine, theirs, strict=True):
        assert one.array.dtype == other.array.dtype
        np.testing.assert_array_equal(one.array, other.array)


@given(tensors())
@unhurried
def test_binary_brings_back_the_very_bits(some: Tensors) -> None:
    back = sent_and_back(some, {tensor.name: True for tensor in some})
    assert_same(some, back)
    for one, other in zip(some, back, strict=True):
        if one.datatype != "BYTES":
            assert one.array.tobytes() == other.array.tobytes()


@given(tensors(text_only=True))
@unhurried
def test_json_brings_back_every_value(some: Tensors) -> None:
    assert_same(some, sent_and_back(some, {tensor.name: False for tensor in some}))


@given(tensors(text_only=True), st.lists(st.booleans(), min_size=3, max_size=3))
@unhurried
def test_forms_mix(some: Tensors, binary: list[bool]) -> None:
    assert_same(some, sent_and_back(some, {tensor.name: each for tensor, each in zip(some, binary, strict=False)}))


@given(tensors(text_only=True))
@unhurried
def test_nested_data_is_the_same_as_flat(some: Tensors) -> None:
    kept = tuple(each for each in some if each.datatype != "BYTES" and each.shape)
    entries = [
        {"name": each.name, "shape": each.shape, "datatype": each.datatype, "data": each.array.tolist()}
        for each in kept
    ]
    if kept:
        body = json.dumps({"inputs": entries}).encode()
        assert_same(kept, RequestDecoder("m", signature_of(kept)).decode(body).inputs)


@given(arrays.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@unhurried
def test_floats_are_written_as_short_as_they_can_be(array: Array) -> None:
    answer = InferenceResponse("m", "1", (Tensor("y", "FP32", array),))
    body = encode_infer(answer, InferenceRequest("m", ())).body.decode()
    texts = body.partition('"data":[')[2].partition("]")[0].split(",")
    for text, value in zip(texts, array, strict=True):
        assert np.float32(text) == value
        shortest = np.format_float_scientific(value, unique=True).partition("e")[0]
        assert len(digits(text)) <= len(digits(shortest))


def digits(number: str) -> str:
    return number.lower().partition("e")[0].replace(".", "").lstrip("-0").rstrip("0")


# Bytes that nobody meant.

SPOILT = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1,)), TensorSpec("s", "BYTES", (-1, 1))),
    ANSWER,
    True,
)
VALID: dict[str, Any] = {
    "id": "1",
    "inputs": [
        {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0.25, -1, 3e5, 4.5]},
        {"name": "n", "shape": [2], "datatype": "INT64", "data": [9007199254740993, -1]},
        {"name": "s", "shape": [2, 1], "datatype": "BYTES", "data": [["a"], ["\u00fc"]]},
    ],
    "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    "parameters": {"timeout": 1000},
}
PIECES = [
    b"null",
    b"NaN",
    b"-",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"1e400",
    b"9" * 25,
    b"\xff",
    b"\\ud800",
    b"0",
]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A valid body with a few of its bytes replaced, dropped or doubled."""
    body = json.dumps(VALID).encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        stop = draw(st.integers(start, min(len(body), start + 12)))
        piece = draw(st.sampled_from([*PIECES, body[start:stop] * 2]) | st.binary(max_size=3))
        body = body[:start] + piece + body[stop:]
    return body


def outcome(body: bytes, json_length: int | None = None) -> list[Any] | str:
    """What the decoder makes of a body: the tensors, or the text of its refusal."""
    try:
        request = RequestDecoder("m", SPOILT).decode(body, json_length=json_length)
    except InvalidRequest as fault:
        return str(fault)
    return [(each.name, each.array.dtype.str, each.array.tolist()) for each in request.inputs]


@given(spoilt())
@settings(unhurried, max_examples=400)
def test_a_spoilt_body_is_read_or_refused(body: bytes) -> None:
    assert outcome(body)


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
@unhurried
@example(b"", 0)
def test_random_bytes_are_refused(body: bytes, json_length: int | None) -> None:
    assert isinstance(outcome(body, json_length), str)


@given(spoilt())
@settings(unhurried, max_examples=300)
def test_the_quick_way_and_the_careful_way_agree(body: bytes) -> None:
    """A NaN in a key that nobody reads sends the whole body the careful way."""
    quick, careful = outcome(body), outcome(b'{"careful":NaN,' + body[1:])
    if isinstance(careful, str) and careful.startswith("the body isn't UTF-8"):
        return  # the quick way doesn't look inside what nobody reads
    if isinstance(quick, list) or quick.startswith(("input '", "output '", "parameters")):
        np.testing.assert_equal(careful, quick)
