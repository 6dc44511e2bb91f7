from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from models.backends import onnx_runtime, runtime
from models.backends.onnx_header import OnnxHeader, empty_model, read_header
from models.errors import IncompatibleRuntime, InferenceFailed, InvalidArtifact, InvalidSignature
from models.inference import Array
from models.signature import Signature, TensorSpec

MakeOnnx = Callable[..., Path]
FLOAT, STRING, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64


def floats(*rows: list[float]) -> Array:
    return np.array(rows, dtype=np.float32)


def test_the_signature_is_read_from_the_file(sum_onnx: Path) -> None:
    pair = (-1, 2)
    assert onnx_runtime.read_signature(sum_onnx) == Signature(
        (TensorSpec("a", "FP32", pair), TensorSpec("b", "FP32", pair)), (TensorSpec("y", "FP32", pair),), batched=True
    )


@pytest.mark.parametrize(
    ("a", "y", "batched"),
    [
        (["n", 2], ["n", 2], True),
        ([None, 2], [None, 2], True),
        ([None, 2], ["n", 2], True),
        (["n", 2], ["m", 2], False),
        ([1, 2], [1, 2], False),
        (["n", 2], [1, 2], False),
        ([], [], False),
    ],
)
def test_a_model_is_batched_if_all_first_dimensions_are_the_same_variable(
    make_onnx: MakeOnnx, a: list[str | int | None], y: list[str | int | None], batched: bool
) -> None:
    path = make_onnx([("Abs", ["a"], ["y"])], [("a", FLOAT, a)], [("y", FLOAT, y)])
    assert onnx_runtime.read_signature(path).batched is batched


def test_it_computes_with_names_in_any_order_and_outputs_in_the_signatures(
    make_onnx: MakeOnnx,
) -> None:
    tensor = ["n", 2]
    path = make_onnx(
        [("Sub", ["a", "b"], ["d"]), ("Abs", ["d"], ["e"])],
        [("a", FLOAT, tensor), ("b", FLOAT, tensor)],
        [("d", FLOAT, tensor), ("e", FLOAT, tensor)],
    )
    read = onnx_runtime.read_signature(path)
    turned = Signature(read.inputs, read.outputs[::-1], batched=True)
    outputs = onnx_runtime.load(path, turned, threads=1).run({"b": floats([3, 3]), "a": floats([1, 5])})
    assert [output.tolist() for output in outputs] == [[[2, 2]], [[-2, 2]]]


def test_arrays_that_cannot_be_written_to_are_fine(sum_onnx: Path) -> None:
    backend = onnx_runtime.load(sum_onnx, onnx_runtime.read_signature(sum_onnx), threads=1)
    frozen = np.frombuffer(floats([1, 2]).tobytes(), dtype=np.float32).reshape(1, 2)
    assert backend.run({"a": frozen, "b": frozen})[0].tolist() == [[2, 4]]


def test_what_the_model_cannot_compute_is_an_inference_failure(sum_onnx: Path) -> None:
    backend = onnx_runtime.load(sum_onnx, onnx_runtime.read_signature(sum_onnx), threads=1)
    for inputs in (
        {"a": floats([1, 2]), "b": floats([1, 2, 3])},
        {"a": floats([1, 2])},
        {"a": floats([1, 2]).astype(np.float64), "b": floats([1, 2])},
    ):
        with pytest.raises(InferenceFailed):
            backend.run(inputs)
    assert backend.run({"a": floats([1, 2]), "b": floats([1, 2])})[0].tolist() == [[2, 4]]


def test_strings_go_in_and_come_out_as_bytes(make_onnx: MakeOnnx) -> None:
    path = make_onnx([("Identity", ["s"], ["y"])], [("s", STRING, ["n", 2])], [("y", STRING, ["n", 2])])
    signature = onnx_runtime.read_signature(path)
    assert signature.inputs[0].datatype == "BYTES"
    words = np.array([["é".encode(), b""]], dtype=object)
    backend = onnx_runtime.load(path, signature, threads=1)
    assert backend.run({"s": words})[0].tolist() == words.tolist()
    with pytest.raises(InferenceFailed, match="'s' has bytes that aren't UTF-8"):
        backend.run({"s": np.array([[b"\xff", b""]], dtype=object)})


def test_a_datatype_that_cannot_be_served_is_named(make_onnx: MakeOnnx) -> None:
    path = make_onnx(
        [("Identity", ["x"], ["y"])], [("x", TensorProto.BFLOAT16, [1])], [("y", TensorProto.BFLOAT16, [1])]
    )
    with pytest.raises(InvalidSignature, match=r"'x' is tensor\(bfloat16\)"):
        onnx_runtime.read_signature(path)


def test_an_output_that_the_model_lacks_is_named(sum_onnx: Path) -> None:
    read = onnx_runtime.read_signature(sum_onnx)
    with pytest.raises(InvalidSignature, match="'z'"):
        onnx_runtime.load(sum_onnx, Signature(read.inputs, (TensorSpec("z", "FP32", (-1, 2)),)), threads=1)


def test_preflight_lets_pass_what_the_runtime_supports(sum_onnx: Path) -> None:
    onnx_runtime.preflight(sum_onnx)


@pytest.mark.parametrize(
    ("ir_version", "opsets", "text"),
    [
        (99, [("", 17)], "IR version 99"),
        (8, [("", 999)], r"ai\.onnx 999"),
        (8, [("", 17), ("ai.onnx.ml", 99)], r"ai\.onnx\.ml 99"),
    ],
)
def test_preflight_refuses_what_is_newer_than_the_runtime(
    make_onnx: MakeOnnx, ir_version: int, opsets: list[tuple[str, int]], text: str
) -> None:
    path = make_onnx(
        [("Abs", ["a"], ["y"])], [("a", FLOAT, [1])], [("y", FLOAT, [1])], ir_version=ir_version, opsets=opsets
    )
    with pytest.raises(IncompatibleRuntime, match=text):
        onnx_runtime.preflight(path)


def test_a_file_of_other_bytes_is_no_model(tmp_path: Path, sum_onnx: Path) -> None:
    for raw in (b"", b"not a model", b"\x80\x04N.", sum_onnx.read_bytes()[:-5], b"\x08\x07"):
        path = tmp_path / "bad.onnx"
        path.write_bytes(raw)
        with pytest.raises(InvalidArtifact, match=r"bad\.onnx"):
            onnx_runtime.preflight(path)
        with pytest.raises(InvalidArtifact, match=r"bad\.onnx"):
            onnx_runtime.read_signature(path)


@settings(deadline=None)
@given(st.integers(1, 2**40), st.lists(st.tuples(st.text(max_size=20), st.integers(0, 2**40)), max_size=3))
def test_an_empty_model_has_the_header_that_it_was_made_from(
    tmp_path_factory: pytest.TempPathFactory, ir_version: int, opsets: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "empty.onnx"
    header = OnnxHeader(ir_version, tuple(opsets))
    path.write_bytes(empty_model(header))
    assert read_header(path) == header


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_an_invalid_artifact(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(raw)
    with contextlib.suppress(InvalidArtifact):
        assert read_header(path).ir_version


def test_a_runtime_that_is_not_installed_is_incompatible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "models.backends.onnx_runtime", None)
    with pytest.raises(IncompatibleRuntime, match="onnxruntime can't be imported"):
        runtime("onnxruntime")
