"""What an infer request may look like, and the text that each mistake gets."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from collections import Counter
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
import pytest

from models.inference import InferenceRequest, RequestedOutput
from models.signature import Signature, TensorSpec
from serving.errors import InvalidRequest
from serving.protocol.decode import EMPTY_TENSOR_MAX_SIZE, RequestDecoder, decode_infer, parse_json_length
from serving.protocol.envelope import LONG_BYTES


def signature(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 2), *, batched: bool = True) -> Signature:
    answer = TensorSpec("y", "FP32", (-1, 3))
    other = TensorSpec("label", "BYTES", (-1, 1))
    return Signature((TensorSpec("x", datatype, shape),), (answer, other), batched)


def decoder(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 2), *, batched: bool = True) -> RequestDecoder:
    return RequestDecoder("m", signature(datatype, shape, batched=batched))


def body(data: Any = (1.0, 2.0), shape: Any = (1, 2), datatype: Any = "FP32", **top: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **top}).encode()


def binary(
    raw: bytes, *, shape: Any = (1, 2), datatype: str = "FP32", size: Any = ..., **entry: Any
) -> tuple[bytes, int]:
    parameters = {"binary_data_size": len(raw) if size is ... else size}
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters, **entry}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + raw, len(head)


def fault(decoder: RequestDecoder, request: bytes, json_length: int | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decoder.decode(request, json_length=json_length)
    return str(caught.value)


def element_fault(datatype: str, element: str) -> str:
    text = f'{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"{datatype}","data":[{{}},{element}]}}]}}'
    good = {"BOOL": "true", "BYTES": '"a"'}.get(datatype, "1")
    return fault(decoder(datatype), text.replace("{}", good).encode())


def array_of(request: InferenceRequest) -> list[Any]:
    values: list[Any] = request.inputs[0].array.tolist()
    return values


class TestGoodRequests:
    def test_the_usual_request(self) -> None:
        request = decoder().decode(body([0.5, 1, -2.5e-3, 1e38], [2, 2], id="7"), version="3")
        assert request.inputs[0].array.dtype == np.float32
        assert array_of(request) == [[0.5, 1.0], [np.float32(-2.5e-3), np.float32(1e38)]]
        assert (request.model, request.version, request.rows, request.id) == ("m", "3", 2, "7")
        assert (request.outputs, request.binary_outputs, dict(request.parameters)) == ((), False, {})

    def test_a_function_does_the_same_as_a_decoder(self) -> None:
        request = decode_infer(body(), signature=signature(), model="m", version="1", json_length=None)
        assert (request.model, request.version, array_of(request)) == ("m", "1", [[1.0, 2.0]])

    def test_data_may_be_nested_as_the_shape_is(self) -> None:
        nested = body([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [2, 2, 2])
        assert array_of(decoder(shape=(-1, 2, 2)).decode(nested)) == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]

    def test_inputs_come_in_the_signatures_order(self) -> None:
        both = Signature((TensorSpec("a", "INT8", (-1,)), TensorSpec("b", "INT8", (-1,))), signature().outputs, True)
        entries = [{"name": name, "shape": [1], "datatype": "INT8", "data": [1]} for name in ("b", "a")]
        request = RequestDecoder("m", both).decode(json.dumps({"inputs": entries}).encode())
        assert [tensor.name for tensor in request.inputs] == ["a", "b"]

    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("datatype", ["FP32", "FP64"])
    def test_literals_that_json_lacks_are_read_as_triton_reads_them(self, datatype: str, nested: bool) -> None:
        data = [float("nan"), float("-inf"), float("inf"), 1.5]
        sent = body([data[:2], data[2:]] if nested else data, [2, 2], datatype)
        assert b"NaN" in sent
        np.testing.assert_array_equal(array_of(decoder(datatype).decode(sent)), [data[:2], data[2:]])

    def test_64_bit_integers_are_exact(self) -> None:
        assert array_of(decoder("INT64").decode(body([2**63 - 1, -(2**63)], datatype="INT64"))) == [
            [2**63 - 1, -(2**63)]
        ]
        assert array_of(decoder("UINT64").decode(body([2**64 - 1, 2**53 + 1], datatype="UINT64"))) == [
            [2**64 - 1, 2**53 + 1]
        ]

    def test_strings_become_utf8_bytes(self) -> None:
        assert array_of(decoder("BYTES").decode(body(["Tang ü", "\0😀"], datatype="BYTES"))) == [
            ["Tang ü".encode(), "\0😀".encode()]
        ]

    def test_binary_numbers_are_not_copied(self) -> None:
        sent, length = binary(np.array([1.5, -2], "<f4").tobytes())
        array = decoder().decode(sent, json_length=length).inputs[0].array
        assert array.tolist() == [[1.5, -2.0]]
        assert np.shares_memory(array, np.frombuffer(sent, np.uint8))

    def test_a_memoryview_is_as_good_as_bytes(self) -> None:
        sent, length = binary(b"\1\0")
        assert array_of(decoder().decode(memoryview(body()))) == [[1.0, 2.0]]
        sent, length = binary(b"\1\0", datatype="BOOL")
        assert array_of(decoder("BOOL").decode(memoryview(sent), json_length=length)) == [[True, False]]

    def test_json_and_binary_mix(self) -> None:
        specs = tuple(TensorSpec(name, "UINT16", (-1,)) for name in "abc")
        entries: list[dict[str, Any]] = [
            {"name": "a", "shape": [2], "datatype": "UINT16", "parameters": {"binary_data_size": 4}},
            {"name": "b", "shape": [2], "datatype": "UINT16", "data": [3, 4]},
            {"name": "c", "shape": [2], "datatype": "UINT16", "parameters": {"binary_data_size": 4}},
        ]
        head = json.dumps({"inputs": entries}).encode()
        request = RequestDecoder("m", Signature(specs, signature().outputs)).decode(
            head + np.array([1, 2, 5, 6], "<u2").tobytes(), json_length=len(head)
        )
        assert [tensor.array.tolist() for tensor in request.inputs] == [[1, 2], [3, 4], [5, 6]]
        assert request.rows == 1, "the model isn't batched"

    def test_outputs_and_how_they_are_wanted(self) -> None:
        wanted = [{"name": "label"}, {"name": "y", "parameters": {"binary_data": False}}]
        request = decoder().decode(body(outputs=wanted, parameters={"binary_data_output": True, "priority": 3}))
        assert request.outputs == (RequestedOutput("label", None), RequestedOutput("y", False))
        assert request.binary_outputs is True
        assert request.parameters["priority"] == 3

    def test_parameters_are_left_for_others_to_read(self) -> None:
        parameters = {"timeout": 1, "sequence_id": 4, "mine": {"a": [1]}}
        assert decoder().decode(body(parameters=parameters)).parameters == parameters

    def test_null_means_absent(self) -> None:
        request = decoder().decode(body(id=None, parameters=None, outputs=None))
        assert (request.id, dict(request.parameters), request.outputs) == (None, {}, ())

    def test_unknown_keys_are_ignored(self) -> None:
        assert array_of(decoder().decode(body(future={"a": [[]]}))) == [[1.0, 2.0]]

    def test_the_last_of_equal_keys_wins(self) -> None:
        assert decoder().decode(body().replace(b"{", b'{"id":"a","id":"b",', 1)).id == "b"

    def test_a_scalar_has_one_element(self) -> None:
        request = decoder("INT32", (), batched=False).decode(body([5], [], "INT32"))
        assert request.inputs[0].array.shape == ()
        assert array_of(request) == 5  # type: ignore[comparison-overlap]

    @pytest.mark.parametrize("data", [[], [[], []]])
    def test_a_tensor_may_be_empty_where_no_batch_is(self, data: list[Any]) -> None:
        request = decoder(shape=(-1, -1), batched=False).decode(body(data, [2, 0]))
        assert request.inputs[0].array.shape == (2, 0)


class TestText:
    @pytest.mark.parametrize(
        ("sent", "text"),
        [
            (b"", "the body is empty, not a JSON object"),
            (b" \n", "the body is empty, not a JSON object"),
            (b"no", "the body isn't valid JSON: Expecting value at position 0"),
            (body()[:-1], "the body isn't valid JSON: Expecting ',' delimiter at position 83"),
            (body() + b"x", "the body isn't valid JSON: Extra data at position 84"),
            (b"\xff\xfe", "the body isn't UTF-8: invalid byte at position 0"),
            (b"[]", "the body: expected an object, got an array"),
            (b"[" * 100_000, "the body is nested too deeply"),
            (b'{"x":' * 100_000, "the body is nested too deeply"),
            (body()[:-1] + b',"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "the body is nested too deeply"),
            (b'{"x":' + b"9" * 5000 + b"}", "the body holds a number of too many digits"),
            (b'{"id":"\\ud800"}', "the body holds half a surrogate pair, which isn't a character"),
            (b"{}", "inputs: missing"),
            (b'{"inputs":null}', "inputs: expected an array, got null"),
            (b'{"inputs":[7]}', "inputs[0]: expected an object, got 7"),
            (b'{"inputs":[{}]}', "inputs[0].shape: missing"),
            (b'{"inputs":[{"shape":[1.0]}]}', "inputs[0].shape[0]: expected an integer, got 1.0"),
            (b'{"inputs":[{"shape":[],"name":1}]}', "inputs[0].name: expected a string, got 1"),
            (body(datatype=5), "inputs[0].datatype: expected a string, got 5"),
            (body(id=7), "id: expected a string, got 7"),
            (body(parameters=[]), "parameters: expected an object, got an array"),
            (body(outputs={}), "outputs: expected an array, got an object"),
            (body(outputs=["y"]), "outputs[0]: expected an object, got a string"),
            (body(outputs=[{"name": None}]), "outputs[0].name: expected a string, got null"),
        ],
    )
    def test_of_what_is_no_request(self, sent: bytes, text: str) -> None:
        assert fault(decoder(), sent) == text

    @pytest.mark.parametrize(
        ("sent", "text"),
        [
            (b'{"inputs":[]}', "input 'x': missing"),
            (body().replace(b'"x"', b'"z"'), "input 'z': the model has no such input, only 'x'"),
            (body(datatype="FP64"), "input 'x': datatype 'FP64' where the model takes FP32"),
            (body(shape=[2]), "input 'x': 1 dimensions in the shape where the model takes [-1, 2]"),
            (body(shape=[1, 3]), "input 'x': shape [1, 3] where the model takes [-1, 2]"),
            (body(shape=[-1, 2]), "input 'x': shape [-1, 2] has a negative size"),
            (body(shape=[0, 2], data=[]), "input 'x': shape [0, 2] is a batch of 0 rows"),
            (body(shape=[2**62, 2]), f"input 'x': shape [{2**62}, 2] is too large"),
            (body(data=[1.0]), "inputs[0].data: 1 elements where shape [1, 2] needs 2"),
            (body(data=[1.0] * 3), "inputs[0].data: 3 elements where shape [1, 2] needs 2"),
            (body(data="1,2"), "inputs[0].data: expected an array, got a string"),
            (body(data=None), "inputs[0].data: expected an array, got null"),
            (body(data=[[1.0], [2.0]]), "inputs[0].data: 2 entries where the shape has 1"),
            (body(data=[[1.0, 2.0, 3.0]]), "inputs[0].data[0]: 3 entries where the shape has 2"),
            (body(data=[1.0, [2.0]], shape=[2, 2]), "inputs[0].data[0]: expected an array, got 1.0"),
            (body(data=[[1], [2, 3, 4]], shape=[2, 2]), "inputs[0].data[0]: 1 entries where the shape has 2"),
            (body(data=[[1.0, [2.0]]]), "inputs[0].data[0][1]: expected a number, got an array"),
            (body(data=[[1.0, 2], [3, None]], shape=[2, 2]), "inputs[0].data[1][1]: expected a number, got null"),
            (body(outputs=[{"name": "z"}]), "output 'z': the model has no such output, only 'y', 'label'"),
            (body(outputs=[{"name": "y"}, {"name": "y"}]), "output 'y': asked for twice"),
        ],
    )
    def test_of_a_request_for_another_model(self, sent: bytes, text: str) -> None:
        assert fault(decoder(), sent) == text

    @pytest.mark.parametrize(
        ("datatype", "element", "text"),
        [
            ("INT8", "128", "128 is out of range for INT8"),
            ("INT8", "-129", "-129 is out of range for INT8"),
            ("UINT8", "256", "256 is out of range for UINT8"),
            ("UINT16", "-1", "-1 is out of range for UINT16"),
            ("INT32", "2147483648", "2147483648 is out of range for INT32"),
            ("INT64", "9223372036854775808", "9223372036854775808 is out of range for INT64"),
            ("UINT64", "18446744073709551616", "18446744073709551616 is out of range for UINT64"),
            ("INT64", "1.0", "expected an integer, got 1.0"),
            ("INT64", "1e3", "expected an integer, got 1000.0"),
            ("INT64", "true", "expected an integer, got true"),
            ("INT64", '"1"', "expected an integer, got a string"),
            ("UINT8", "NaN", "expected an integer, got NaN"),
            ("FP32", '"1"', "expected a number, got a string"),
            ("FP32", "null", "expected a number, got null"),
            ("FP64", "false", "expected a number, got false"),
            ("FP32", "3.5e38", "3.5e+38 is out of range for FP32"),
            ("FP32", "-1e39", "-1e+39 is out of range for FP32"),
            ("FP32", "1e400", "a number out of range for FP32"),
            ("FP64", "-1e400", "a number out of range for FP64"),
            ("FP64", "1" + "0" * 400, "1" + "0" * 59 + "... is out of range for FP64"),
            ("BOOL", "1", "expected true or false, got 1"),
            ("BOOL", '"true"', "expected true or false, got a string"),
            ("BYTES", "1", "expected a string, got 1"),
            ("BYTES", "null", "expected a string, got null"),
        ],
    )
    def test_of_a_wrong_element(self, datatype: str, element: str, text: str) -> None:
        assert element_fault(datatype, element) == f"inputs[0].data[1]: {text}"

    @pytest.mark.parametrize("nested", [False, True])
    @pytest.mark.parametrize("literal", ["Infinity", "-Infinity", "NaN", "1e400", "1e39", "null", '"1"'])
    def test_of_the_first_of_many_wrong_elements(self, literal: str, nested: bool) -> None:
        rows: list[Any] = [[0, 1.5]] * 40
        rows[7], rows[20] = [2, "L"], [None, "M"]
        sent = body(rows if nested else list(chain.from_iterable(rows)), [40, 2]).replace(b'"L"', literal.encode())
        good = literal in ("Infinity", "-Infinity", "NaN")
        assert fault(decoder(), sent).startswith(
            "inputs[0].data" + {(1, 0): "[20][0]", (1, 1): "[40]", (0, 0): "[7][1]", (0, 1): "[15]"}[good, not nested]
        )

    def test_of_elements_that_are_too_many_without_looking_at_them(self) -> None:
        assert fault(decoder(), body([1, None, 3])) == "inputs[0].data: 3 elements where shape [1, 2] needs 2"

    @pytest.mark.parametrize("element", ["Infinity", "1e39", "null", '"1"', "0.5,1"])
    def test_of_one_among_many_without_a_call_for_each(self, element: str) -> None:
        count = 10_000
        numbers = b"[" + b"0.5," * (count - 1) + element.encode() + b"]"
        sent = body(shape=[count // 2, 2]).replace(b"[1.0, 2.0]", numbers)
        calls = Counter[str]()
        sys.setprofile(lambda frame, event, arg: calls.update([event]))
        try:
            with suppress(InvalidRequest):
                decoder().decode(sent)
        finally:
            sys.setprofile(None)
        assert 0 < calls.total() < count / 10

    @pytest.mark.parametrize("literal", ["Infinity", "-Infinity"])
    def test_of_an_overflow_beside_an_infinity_that_was_meant(self, literal: str) -> None:
        sent = body(["L", "1e400"]).replace(b'"L"', literal.encode()).replace(b'"1e400"', b"1e400")
        assert fault(decoder(), sent) == "inputs[0].data[1]: a number out of range for FP32"

    def test_of_bytes_in_a_string_that_are_no_characters(self) -> None:
        sent = body(["a", "b"], datatype="BYTES").replace(b'"b"', b'"\xff"')
        assert fault(decoder("BYTES"), sent) == "inputs[0].data isn't UTF-8: invalid byte at position 7"
        escaped = body(["a", "\ud800"], datatype="BYTES")
        assert fault(decoder("BYTES"), escaped).endswith("holds half a surrogate pair, which isn't a character")

    @pytest.mark.parametrize(
        ("parameters", "text"),
        [
            ({"binary_data_output": 1}, "parameters.binary_data_output: expected true or false, got 1"),
            ({"timeout": 0}, "parameters.timeout: expected microseconds, an integer over 0, got 0"),
            ({"timeout": "5"}, "parameters.timeout: expected microseconds, an integer over 0, got a string"),
            ({"timeout": 1.5}, "parameters.timeout: expected microseconds, an integer over 0, got 1.5"),
            ({"timeout": True}, "parameters.timeout: expected microseconds, an integer over 0, got true"),
        ],
    )
    def test_of_a_wrong_parameter(self, parameters: dict[str, Any], text: str) -> None:
        assert fault(decoder(), body(parameters=parameters)) == text

    @pytest.mark.parametrize(
        ("parameters", "text"),
        [
            ({"binary_data": "yes"}, ".binary_data: expected true or false, got a string"),
            ({"classification": 3}, ".classification: classification of outputs isn't supported"),
            ({"shared_memory_region": "r"}, ": shared_memory_region: shared memory isn't supported"),
        ],
    )
    def test_of_a_wrong_output_parameter(self, parameters: dict[str, Any], text: str) -> None:
        sent = body(outputs=[{"name": "label"}, {"name": "y", "parameters": parameters}])
        assert fault(decoder(), sent) == f"outputs[1].parameters{text}"

    def test_of_rows_that_differ(self) -> None:
        both = Signature((TensorSpec("a", "INT8", (-1,)), TensorSpec("b", "INT8", (-1,))), signature().outputs, True)
        entries = [
            {"name": "b", "shape": [2], "datatype": "INT8", "data": [1, 2]},
            {"name": "a", "shape": [1], "datatype": "INT8", "data": [1]},
        ]
        sent = json.dumps({"inputs": entries}).encode()
        assert fault(RequestDecoder("m", both), sent) == "input 'b': 2 rows where input 'a' has 1"
        once = json.dumps({"inputs": entries[:1]}).encode()
        assert fault(RequestDecoder("m", both), once) == "input 'a': missing"
        twice = json.dumps({"inputs": entries[:1] * 2}).encode()
        assert fault(RequestDecoder("m", both), twice) == "input 'b': given twice"

    def test_of_rows_without_elements(self) -> None:
        wide = decoder(shape=(-1, -1))
        assert fault(wide, body([], [1000, 0])) == "input 'x': shape [1000, 0] is rows without elements"

    def test_of_rows_too_many_that_have_no_elements(self) -> None:
        free = decoder(shape=(-1, -1), batched=False)
        assert fault(free, body([[], [], []], [2, 0])) == "inputs[0].data: 3 entries where the shape has 2"

    def test_of_an_empty_tensor_that_claims_to_be_large(self) -> None:
        free = decoder(shape=(-1, -1), batched=False)
        size = EMPTY_TENSOR_MAX_SIZE + 1
        text = f"input 'x': shape [{size}, 0] is too large for a tensor without elements"
        assert fault(free, body([], [size, 0])) == text


class TestLongText:
    """It goes through another branch of the careful reader."""

    def test_its_numbers_are_as_exact(self) -> None:
        numbers = [2**63 - 1, -(2**63), *[0] * (LONG_BYTES // 3)]
        long = body(numbers, [len(numbers)], "INT64", x=math.nan)
        assert array_of(decoder("INT64", (-1,)).decode(long)) == numbers

    def test_its_infinities_are_told_from_overflows(self) -> None:
        numbers = [math.inf, 0.1, *[1] * (LONG_BYTES // 3)]
        long = body(numbers, [len(numbers)], "FP64")
        free = decoder("FP64", (-1,))
        assert array_of(free.decode(long))[:3] == [math.inf, 0.1, 1.0]
        assert fault(free, long.replace(b"0.1", b"1e400")) == "inputs[0].data[1]: a number out of range for FP64"


class TestBinaryText:
    @pytest.mark.parametrize(
        ("raw", "entry", "text"),
        [
            (bytes(7), {}, "input 'x': binary_data_size is 7 where shape [1, 2] needs 8 bytes"),
            (bytes(9), {}, "input 'x': binary_data_size is 9 where shape [1, 2] needs 8 bytes"),
            (bytes(9), {"size": 8}, "the body: 1 binary bytes are left over after the last input"),
            (bytes(7), {"size": 8}, "input 'x': binary_data_size is 8 where 7 bytes of the body are left"),
            (bytes(8), {"size": -8}, "input 'x': binary_data_size: expected a number of bytes, got -8"),
            (bytes(8), {"size": 8.0}, "input 'x': binary_data_size: expected a number of bytes, got 8.0"),
            (bytes(8), {"size": True}, "input 'x': binary_data_size: expected a number of bytes, got true"),
            (bytes(8), {"data": [1, 2]}, "input 'x': has both data and binary_data_size"),
            (b"", {"size": None}, "input 'x': has neither data nor binary_data_size"),
            (
                bytes(8),
                {"parameters": {"shared_memory_region": "r"}},
                "input 'x': shared_memory_region: shared memory isn't supported",
            ),
        ],
    )
    def test_of_numbers(self, raw: bytes, entry: dict[str, Any], text: str) -> None:
        assert fault(decoder(), *binary(raw, **entry)) == text

    def test_of_a_bool_that_is_neither(self) -> None:
        assert fault(decoder("BOOL"), *binary(b"\1\2", datatype="BOOL")) == "input 'x': a BOOL is a byte 0 or 1"

    @pytest.mark.parametrize(
        ("raw", "text"),
        [
            (b"\1\0\0\0a", "5 bytes can't hold 2 elements"),
            (b"\1\0\0\0a\2\0\0\0b", "element 1 is cut short"),
            (b"\1\0\0\0a\0\0\0\0b", "1 bytes are left over after 2 elements"),
            (b"\xff\xff\xff\xffabcd", "element 0 is cut short"),
        ],
    )
    def test_of_bytes(self, raw: bytes, text: str) -> None:
        assert fault(decoder("BYTES"), *binary(raw, datatype="BYTES")) == f"input 'x': {text}"

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    def test_of_what_only_binary_can_carry(self, datatype: str) -> None:
        text = f"input 'x': {datatype} can only be sent as binary"
        assert fault(decoder(datatype), body(datatype=datatype)) == text

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    def test_of_an_output_that_only_binary_can_carry(self, datatype: str) -> None:
        outputs = (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("half", datatype, (-1, 3)))
        half = RequestDecoder("m", Signature(signature().inputs, outputs, True))
        text = f"output 'half': {datatype} can only be sent as binary, not as JSON"
        assert fault(half, body()) == text
        assert fault(half, body(outputs=[{"name": "half"}])) == text
        assert half.decode(body(parameters={"binary_data_output": True})).binary_outputs
        asked = half.decode(body(outputs=[{"name": "half", "parameters": {"binary_data": True}}, {"name": "y"}]))
        assert asked.outputs == (RequestedOutput("half", True), RequestedOutput("y", None))

    def test_of_a_length_that_is_missing_or_wrong(self) -> None:
        sent, length = binary(bytes(8))
        head = sent[:length]
        missing = "input 'x': binary_data_size without the header Inference-Header-Content-Length"
        assert fault(decoder(), head) == missing
        beyond = f"Inference-Header-Content-Length: {len(sent) + 1} where the body has {len(sent)} bytes"
        assert fault(decoder(), sent, len(sent) + 1) == beyond
        assert fault(decoder(), sent, 0).startswith("Inference-Header-Content-Length: raw binary requests")
        assert fault(decoder(), sent, length - 1).startswith("the body isn't valid JSON")

    def test_of_a_length_that_is_no_number(self) -> None:
        assert parse_json_length(b"123") == parse_json_length("123") == 123
        for value in ("", "-1", "+1", "1e3", "0x10", " 1", "1_0", "٣", "²", "9" * 30):
            with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length: expected a number of bytes"):
                parse_json_length(value)


@pytest.mark.parametrize("shape", [[2**40, 2], [2**63, 2], [10**4000, 10**4000], [2**31, 2**31], [2**62, 0]])
@pytest.mark.parametrize("size", [None, 8])
def test_a_huge_shape_allocates_nothing(shape: list[int], size: int | None) -> None:
    free = decoder(shape=(-1, -1), batched=False)
    sent, length = (body(shape=shape), None) if size is None else binary(bytes(size), shape=shape)
    tracemalloc.start()
    try:
        assert len(fault(free, sent, length)) < 300
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_error_never_repeats_a_long_value() -> None:
    assert len(fault(decoder(), body().replace(b'"x"', b'"' + b"x" * 10_000 + b'"'))) < 300
