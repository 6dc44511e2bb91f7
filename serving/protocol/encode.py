"""An answer's tensors to the bytes of an infer response: JSON, and binary tensors where they were asked for.

Not here: compression, response headers, status codes.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from models.inference import Array, InferenceRequest, InferenceResponse, Tensor, pack_bytes
from serving.errors import InvalidRequest
from serving.protocol.elements import BINARY_ONLY

_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_FLOATS: Final = frozenset({"FP32", "FP64"})


class EncodedBody(NamedTuple):
    """``json_length`` is for the header ``Inference-Header-Content-Length``: None if all of ``body`` is JSON."""

    body: bytes
    json_length: int | None


def encode_infer(response: InferenceResponse, request: InferenceRequest) -> EncodedBody:
    """The body that answers ``request``: its outputs in the model's order, its id echoed.

    Floats are written in the shortest form that reads back as the same number, NaN and infinities as the literals
    ``NaN``, ``Infinity``, ``-Infinity``. Raises ``InvalidRequest`` if an output can't be what the request asks for:
    FP16, BF16, or BYTES that aren't UTF-8, in JSON.
    """
    wanted = {output.name: output.binary for output in request.outputs}
    entries: list[dict[str, Any]] = []
    tail: list[bytes | memoryview] = []
    for tensor in response.outputs:
        if wanted and tensor.name not in wanted:
            continue
        binary = wanted.get(tensor.name)
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape}
        if request.binary_outputs if binary is None else binary:
            raw = pack_bytes(tensor.array) if tensor.datatype == "BYTES" else np.ascontiguousarray(tensor.array).data
            entry["parameters"] = {"binary_data_size": len(raw) if isinstance(raw, bytes) else raw.nbytes}
            tail.append(raw)
        else:
            entry["data"] = _json_data(tensor)
        entries.append(entry)
    head = _dumps(response, request, entries)
    if not tail:
        return EncodedBody(head, None)
    return EncodedBody(b"".join((head, *tail)), len(head))


def _dumps(response: InferenceResponse, request: InferenceRequest, entries: list[dict[str, Any]]) -> bytes:
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if request.id is not None:
        document["id"] = request.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    document["outputs"] = entries
    head = orjson.dumps(document, option=_NUMPY)
    # orjson writes null for what isn't finite. A null may stand elsewhere too; then this changes nothing.
    if b"null" in head and _write_literals(entries):
        head = orjson.dumps(document, option=_NUMPY)
    return head


def _json_data(tensor: Tensor) -> list[str] | Array:
    """The elements, flat and in row-major order, in a form that orjson writes."""
    if tensor.datatype in BINARY_ONLY:
        raise InvalidRequest(f"output '{tensor.name}': {tensor.datatype} can only be sent as binary, not as JSON")
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in tensor.array.flat]
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"output '{tensor.name}': holds bytes that aren't UTF-8, which JSON can't carry; ask for it as binary"
            ) from None
    array = tensor.array
    return array.ravel() if array.flags.aligned else array.copy().ravel()


def _write_literals(entries: list[dict[str, Any]]) -> bool:
    """Put the JSON text in place of every array that isn't finite throughout; whether there was one."""
    found = False
    for entry in entries:
        if entry["datatype"] in _FLOATS and "data" in entry:
            array: Array = entry["data"]
            finite = np.isfinite(array)
            if not finite.all():
                entry["data"] = orjson.Fragment(_with_literals(array, finite))
                found = True
    return found


def _with_literals(array: Array, finite: Array) -> bytes:
    texts = orjson.dumps(np.where(finite, array, array.dtype.type(0)), option=_NUMPY)[1:-1].split(b",")
    for position in np.flatnonzero(~finite):
        value = array[position]
        texts[position] = b"NaN" if np.isnan(value) else b"Infinity" if value > 0 else b"-Infinity"
    return b"[" + b",".join(texts) + b"]"
