"""Runs ``.onnx`` files with ONNX Runtime on the CPU.

BF16 isn't offered here: numpy has no such type, and the runtime's Python interface takes no other arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from models.backends.onnx_header import empty_model, read_header
from models.errors import IncompatibleRuntime, InferenceFailed, InvalidArtifact, InvalidSignature
from models.inference import Array
from models.signature import ANY, Signature, TensorSpec

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_RUNTIME_ERRORS: Final = tuple(
    getattr(ort_errors, name)
    for name in (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoaded",
        "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
    )
)  # fmt: skip
_FATAL: Final = 4  # log severity: what goes wrong is raised, and told once


def preflight(path: Path) -> None:
    """Asks the runtime to take an empty model of the same IR version and operator sets."""
    header = read_header(path)
    try:
        _session(empty_model(header), threads=1)
    except _RUNTIME_ERRORS as error:
        raise IncompatibleRuntime(
            f"'{path.name}' needs {header}, which ONNX Runtime {ort.__version__} doesn't support: {_reason(error)}"
        ) from error


def read_signature(path: Path) -> Signature:
    """From the session's inputs and outputs.

    It is batched if the first dimension of every tensor is variable and those with a name have the same one.
    """
    session = _open(path, threads=1)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    first = [tuple(node.shape[:1]) for node in [*inputs, *outputs]]
    variable = all(dims and not isinstance(dims[0], int) for dims in first)
    symbols = {dims[0] for dims in first if dims and dims[0] is not None}
    return Signature(
        inputs=tuple(_spec(node) for node in inputs),
        outputs=tuple(_spec(node) for node in outputs),
        batched=variable and len(symbols) <= 1,
    )


def load(path: Path, signature: Signature, *, threads: int) -> OnnxRuntimeBackend:
    """The model in ``path``; ``threads`` compute one run."""
    session = _open(path, threads=threads)
    known = {node.name for node in session.get_outputs()}
    for spec in signature.outputs:
        if spec.name not in known:
            raise InvalidSignature(f"'{path.name}' has no output '{spec.name}'")
    return OnnxRuntimeBackend(session, signature)


class OnnxRuntimeBackend:
    """One session. ``run`` copies nothing but BYTES."""

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self._run: Callable[[Sequence[str], dict[str, Any]], list[Array]] = session.run
        self._outputs = [spec.name for spec in signature.outputs]
        self._bytes_inputs = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
        self._bytes_outputs = [at for at, spec in enumerate(signature.outputs) if spec.datatype == "BYTES"]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs for these inputs, in the order of the signature."""
        feed = inputs if type(inputs) is dict else dict(inputs)
        if self._bytes_inputs:
            feed = {**feed, **{name: _to_text(name, feed[name]) for name in self._bytes_inputs}}
        try:
            outputs = self._run(self._outputs, feed)
        except (*_RUNTIME_ERRORS, RuntimeError, ValueError) as error:
            raise InferenceFailed(f"ONNX Runtime: {_reason(error)}") from error
        for at in self._bytes_outputs:
            outputs[at] = _to_bytes(outputs[at])
        return outputs


def _open(path: Path, *, threads: int) -> ort.InferenceSession:
    try:
        return _session(str(path), threads=threads)
    except ort_errors.NotImplemented as error:
        raise IncompatibleRuntime(
            f"ONNX Runtime {ort.__version__} lacks an operator of '{path.name}': {_reason(error)}"
        ) from error
    except _RUNTIME_ERRORS as error:
        raise InvalidArtifact(f"ONNX Runtime can't open '{path.name}': {_reason(error)}") from error


def _session(model: str | bytes, *, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # A thread that spins for work takes the core from the replica's own event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _spec(node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise InvalidSignature(f"tensor '{node.name}' is {node.type}, which can't be served")
    return TensorSpec(node.name, datatype, tuple(size if isinstance(size, int) else ANY for size in node.shape))


def _to_text(name: str, array: Array) -> Array:
    try:
        text = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError as error:
        raise InferenceFailed(f"input '{name}' has bytes that aren't UTF-8, as ONNX strings must be") from error
    return np.array(text, dtype=object).reshape(array.shape)


def _to_bytes(array: Array) -> Array:
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [element.encode() if isinstance(element, str) else element for element in array.ravel()]
    return encoded.reshape(array.shape)


def _reason(error: Exception) -> str:
    """The part of the runtime's message that is for people, without source files and signatures."""
    return str(error).rpartition(") ")[2].strip() or str(error)
