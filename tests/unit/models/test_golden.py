from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import GoldenMismatch, InvalidGolden
from models.golden import Example, check_example, difference, read_examples, write_examples
from models.golden_json import read_json_example
from models.inference import DATATYPES, Array
from models.manifest import Golden
from models.signature import Signature, TensorSpec

GOLDEN = Golden("golden.npz", absolute_tolerance=0.01, relative_tolerance=0.1)


def one_output(datatype: str, *, batched: bool = False) -> Signature:
    return Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", datatype, (-1,)),), batched)


def objects(*elements: bytes) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def npz(**arrays: Array) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{key.replace("__", "/"): array for key, array in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


X = np.array([1, 2], dtype=np.float32)
Y = np.array([3, 4], dtype=np.float32)


@st.composite
def arrays(draw: st.DrawFn, datatype: str) -> Array:
    if datatype == "BYTES":
        return objects(*draw(st.lists(st.binary(max_size=5), max_size=4)))
    dtype = DATATYPES[datatype].dtype
    count = draw(st.integers(0, 4))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return np.ones(count, dtype=bool) if datatype == "BOOL" else np.frombuffer(raw, dtype=dtype)


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(DATATYPES)))
def test_examples_of_every_datatype_come_back_from_their_file_bit_by_bit(data: st.DataObject, datatype: str) -> None:
    signature = Signature((TensorSpec("x", datatype, (-1,)),), (TensorSpec("y/shape", datatype, (-1,)),))
    written = [Example((data.draw(arrays(datatype)),), (data.draw(arrays(datatype)),)) for _ in range(2)]
    raw = write_examples(written, signature)
    assert raw == write_examples(written, signature)
    for before, after in zip(written, read_examples(raw, signature), strict=True):
        for was, now in zip(before.inputs + before.outputs, after.inputs + after.outputs, strict=True):
            assert was.dtype == now.dtype
            assert was.tolist() == now.tolist() if datatype == "BYTES" else was.tobytes() == now.tobytes()


def test_a_person_may_leave_out_the_number_and_the_sides() -> None:
    signature = one_output("FP32")
    for raw in (npz(x=X, y=Y), npz(inputs__x=X, outputs__y=Y), npz(**{"0__inputs__x": X, "0__outputs__y": Y})):
        (example,) = read_examples(raw, signature)
        assert example.inputs[0].tolist() == X.tolist()
        assert example.outputs[0].tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "can't be read"),
        (b"PK\x03\x04 and no more", "can't be read"),
        (npz(x=np.array([{}], dtype=object), y=Y), "can't be read"),
        (npz(), "no golden example"),
        (npz(x=X), "'y'"),
        (npz(x=X.astype(np.float64), y=Y), "'x' is float64, and FP32 needs float32"),
        (npz(x=X.reshape(1, 2), y=Y), r"'x' has shape \[1, 2\], not \[-1\]"),
        (npz(x=X, y=Y[:1]), "same number of rows"),
        (npz(x=X[:0], y=Y[:0]), "same number of rows"),
    ],
)
def test_examples_that_do_not_fit_are_refused_by_name(raw: bytes, text: str) -> None:
    with pytest.raises(InvalidGolden, match=text):
        read_examples(raw, one_output("FP32", batched=True))


def test_a_single_array_or_a_pickle_is_no_golden_file() -> None:
    buffer = io.BytesIO()
    np.save(buffer, X)
    for raw in (buffer.getvalue(), b"\x80\x04N."):
        with pytest.raises(InvalidGolden):
            read_examples(raw, one_output("FP32"))


@pytest.mark.parametrize(
    ("datatype", "answer", "expected", "same"),
    [
        ("FP32", 1.1, 1.0, True),
        ("FP32", 1.12, 1.0, False),
        ("FP32", 0.009, 0.0, True),
        ("FP32", float("nan"), float("nan"), True),
        ("FP32", float("nan"), 1.0, False),
        ("FP32", float("inf"), 1.0, False),
        ("FP16", 1.1, 1.0, True),
        ("BF16", 0x3F81, 0x3F80, True),  # the next number after 1.0
        ("BF16", 0xBF80, 0x3F80, False),  # -1.0 and 1.0
        ("INT64", 2**63 - 1, 2**63 - 1, True),
        ("INT64", 2**63 - 1, 2**63 - 2, False),
        ("BOOL", True, False, False),
    ],
)
def test_floats_may_differ_by_the_tolerance_and_nothing_else_may(
    datatype: str, answer: float, expected: float, same: bool
) -> None:
    dtype = DATATYPES[datatype].dtype
    fault = difference([np.array([answer], dtype)], [np.array([expected], dtype)], one_output(datatype), GOLDEN)
    assert (fault is None) == same


def test_bytes_have_to_be_equal() -> None:
    signature = one_output("BYTES")
    assert difference([objects(b"a", b"b")], [objects(b"a", b"b")], signature, GOLDEN) is None
    fault = difference([objects(b"a", b"c")], [objects(b"a", b"b")], signature, GOLDEN)
    assert fault == "output 'y' is b'c' at [1] where b'b' was expected; 1 of 2 elements differ"


def test_an_answer_of_another_form_is_another_answer() -> None:
    signature = one_output("FP32")
    assert "0 outputs" in str(difference([], [Y], signature, GOLDEN))
    assert "float64" in str(difference([Y.astype(np.float64)], [Y], signature, GOLDEN))
    assert "shape [1, 2]" in str(difference([Y.reshape(1, 2)], [Y], signature, GOLDEN))


def test_a_mismatch_says_where_and_by_how_much() -> None:
    with pytest.raises(GoldenMismatch, match=r"'y' is 9\.0 at \[1\] where 4\.0 was expected \(tolerance 0\.01"):
        check_example(Example((X,), (Y,)), lambda _: [np.array([3, 9], np.float32)], one_output("FP32"), GOLDEN)


def test_a_json_example_is_read_with_nested_or_flat_data() -> None:
    signature = Signature(
        (TensorSpec("n", "INT64", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), (TensorSpec("y", "BOOL", ()),)
    )
    example = read_json_example(
        b"""{"inputs": [{"name": "s", "datatype": "BYTES", "shape": [1], "data": ["\xc3\xa9"]},
                        {"name": "n", "datatype": "INT64", "shape": [1, 2], "data": [[1, 9223372036854775807]]}],
             "outputs": [{"name": "y", "datatype": "BOOL", "shape": [], "data": [true]}]}""",
        signature,
    )
    assert example.inputs[0].tolist() == [[1, 2**63 - 1]]
    assert example.inputs[1].tolist() == ["é".encode()]
    assert example.outputs[0].shape == ()


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        ('{"name": "z", "datatype": "INT8", "shape": [1], "data": [1]}', r"\['z'\] where the model has \['x'\]"),
        ('{"name": "x", "datatype": "INT16", "shape": [1], "data": [1]}', "is INT16, not INT8"),
        ('{"name": "x", "datatype": "INT8", "shape": [2], "data": [1]}', r"1 elements for shape \[2\]"),
        ('{"name": "x", "datatype": "INT8", "shape": [-1], "data": [1]}', r"shape \[-1\]"),
        ('{"name": "x", "datatype": "INT8", "shape": [1], "data": [128]}', "out of bounds"),
        ('{"name": "x", "datatype": "INT8", "shape": [1], "data": [1.5]}', r"1\.5 among its INT8"),
        ('{"name": "x", "datatype": "INT8", "shape": [1], "data": [true]}', "True among its INT8"),
        ('{"name": "x", "datatype": "INT8", "shape": [1]}', "data"),
    ],
)
def test_a_json_example_that_does_not_fit_is_refused_by_name(tensor: str, text: str) -> None:
    signature = Signature((TensorSpec("x", "INT8", (-1,)),), (TensorSpec("x", "INT8", (-1,)),))
    with pytest.raises(InvalidGolden, match=text):
        read_json_example(f'{{"inputs": [{tensor}], "outputs": [{tensor}]}}'.encode(), signature)


def test_fp16_has_no_json_form() -> None:
    tensor = '{"name": "x", "datatype": "FP16", "shape": [1], "data": [1]}'
    signature = Signature((TensorSpec("x", "FP16", (-1,)),), (TensorSpec("x", "FP16", (-1,)),))
    with pytest.raises(InvalidGolden, match="no JSON form"):
        read_json_example(f'{{"inputs": [{tensor}], "outputs": [{tensor}]}}'.encode(), signature)
