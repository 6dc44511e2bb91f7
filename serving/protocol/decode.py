"""An infer request's bytes to tensors that have passed the model's signature.

JSON and the binary tensor extension, mixed per tensor. Everything that is wrong with a request is found here and
raised as ``InvalidRequest`` with the name of the field. Not here: JSON itself (``envelope``), elements
(``elements``), compression, headers, and the meaning of request parameters other than the binary ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from msgspec import UNSET

from models.inference import DATATYPES, InferenceRequest, RequestedOutput, Tensor, Tensors
from models.signature import ANY, Signature, TensorSpec
from serving.errors import InvalidRequest
from serving.protocol.elements import BINARY_ONLY, ElementReader
from serving.protocol.envelope import WireOutput, WireTensor, kind_of, read_envelope, show

EMPTY_TENSOR_MAX_SIZE: Final = 65_536
"""The largest dimension of a tensor without elements: its size costs the caller nothing, but may cost the model."""

_TIMEOUT_MAX_US: Final = 2**63 - 1
_ELEMENTS_MAX: Final = 2**40
_NO_PARAMETERS: Final[Mapping[str, Any]] = MappingProxyType({})
_NO_BYTES: Final = memoryview(b"")


class _Input(NamedTuple):
    spec: TensorSpec
    reader: ElementReader


class RequestDecoder:
    """Decodes the infer requests of one model version; made once for each, used for every request."""

    __slots__ = ("_batched", "_binary_only", "_inputs", "_model", "_outputs", "_strings")

    def __init__(self, model: str, signature: Signature) -> None:
        self._model = model
        self._batched = signature.batched
        self._inputs = {
            spec.name: _Input(spec, ElementReader(DATATYPES[spec.datatype], len(spec.shape)))
            for spec in signature.inputs
        }
        self._strings = any(spec.datatype == "BYTES" for spec in signature.inputs)
        self._outputs = {spec.name: spec.datatype for spec in signature.outputs}
        self._binary_only = not BINARY_ONLY.isdisjoint(self._outputs.values())

    def read_bytes(self, size: int, *, json_length: int | None) -> int:
        """How many of a body's ``size`` bytes are read one by one: text and strings, but no numbers that follow raw."""
        return size if json_length is None or self._strings else min(size, json_length)

    def decode(
        self, body: bytes | memoryview, *, json_length: int | None = None, version: str | None = None
    ) -> InferenceRequest:
        """The request that ``body`` is, its inputs in the signature's order.

        ``json_length`` is the header ``Inference-Header-Content-Length``: the bytes of JSON, which binary tensors
        follow; None without that header. Numeric arrays may be read-only, unaligned and share memory with ``body``.
        Raises ``InvalidRequest``.
        """
        if json_length is None:
            text, tail = body, None
        else:
            text, tail = _split(body, json_length)
        envelope = read_envelope(text)
        inputs = self._tensors(envelope.inputs, tail)
        parameters = _NO_PARAMETERS if envelope.parameters is None else envelope.parameters
        binary_outputs = _flag(parameters, "binary_data_output", "parameters") if parameters else None
        if parameters and parameters.get("timeout") is not None:
            _check_timeout(parameters["timeout"])
        outputs = self._requested(envelope.outputs) if envelope.outputs else ()
        if self._binary_only:
            self._refuse_json(outputs, bool(binary_outputs))
        return InferenceRequest(
            self._model,
            inputs,
            inputs[0].array.shape[0] if self._batched else 1,
            version,
            envelope.id,
            outputs,
            bool(binary_outputs),
            parameters,
        )

    def _tensors(self, items: Sequence[WireTensor], tail: memoryview | None) -> Tensors:
        found: dict[str, Tensor] = {}
        taken = 0
        for index, item in enumerate(items):
            known = self._inputs.get(item.name)
            if known is None:
                names = ", ".join(f"'{name}'" for name in self._inputs)
                raise InvalidRequest(f"input {show(item.name)}: the model has no such input, only {names}")
            spec, reader = known
            if spec.name in found:
                raise InvalidRequest(f"input '{spec.name}': given twice")
            if item.datatype != spec.datatype:
                raise InvalidRequest(
                    f"input '{spec.name}': datatype {show(item.datatype)} where the model takes {spec.datatype}"
                )
            count = self._element_count(item.shape, spec)
            size = None if item.parameters is None else _binary_size(item, spec.name)
            if size is not None:
                raw = _take(tail, taken, size, spec.name)
                taken += size
                try:
                    array = reader.from_binary(raw, shape=item.shape, count=count)
                except ValueError as fault:
                    raise InvalidRequest(f"input '{spec.name}': {fault}") from None
            elif item.data is UNSET:
                raise InvalidRequest(f"input '{spec.name}': has neither data nor binary_data_size")
            elif spec.datatype in BINARY_ONLY:
                raise InvalidRequest(f"input '{spec.name}': {spec.datatype} can only be sent as binary")
            else:
                array = reader.from_json(item.data, shape=item.shape, count=count, index=index)
            found[spec.name] = Tensor(spec.name, spec.datatype, array)
        if tail is not None and taken != len(tail):
            raise InvalidRequest(f"the body: {len(tail) - taken} binary bytes are left over after the last input")
        return self._in_order(found)

    def _in_order(self, found: dict[str, Tensor]) -> Tensors:
        """All inputs as the signature orders them; for a batched model, with as many rows each."""
        if len(found) != len(self._inputs):
            missing = next(name for name in self._inputs if name not in found)
            raise InvalidRequest(f"input '{missing}': missing")
        if len(found) == 1:
            return tuple(found.values())
        tensors = tuple([found[name] for name in self._inputs])
        if self._batched:
            first = tensors[0]
            for tensor in tensors:
                if tensor.shape[0] != first.shape[0]:
                    raise InvalidRequest(
                        f"input '{tensor.name}': {tensor.shape[0]} rows where input '{first.name}' has {first.shape[0]}"
                    )
        return tensors

    def _element_count(self, shape: list[int], spec: TensorSpec) -> int:
        """How many elements an input of this shape has; raises if the signature doesn't allow the shape."""
        if len(shape) == len(spec.shape):
            count = 1
            for size, want in zip(shape, spec.shape, strict=True):
                if size < 0 or (size != want and want != ANY):
                    break
                count *= size
            else:
                if count == 0:
                    self._check_empty(shape, spec.name)
                if count > _ELEMENTS_MAX:
                    raise InvalidRequest(f"input '{spec.name}': shape {show(shape)} is too large")
                return count
        raise InvalidRequest(_shape_fault(shape, spec))

    def _check_empty(self, shape: list[int], name: str) -> None:
        if self._batched:
            what = "a batch of 0 rows" if shape[0] == 0 else "rows without elements"
            raise InvalidRequest(f"input '{name}': shape {show(shape)} is {what}")
        if max(shape) > EMPTY_TENSOR_MAX_SIZE:
            raise InvalidRequest(f"input '{name}': shape {show(shape)} is too large for a tensor without elements")

    def _requested(self, items: list[WireOutput]) -> tuple[RequestedOutput, ...]:
        chosen: dict[str, RequestedOutput] = {}
        for index, item in enumerate(items):
            if item.name not in self._outputs:
                names = ", ".join(f"'{name}'" for name in self._outputs)
                raise InvalidRequest(f"output {show(item.name)}: the model has no such output, only {names}")
            if item.name in chosen:
                raise InvalidRequest(f"output '{item.name}': asked for twice")
            parameters = item.parameters or _NO_PARAMETERS
            path = f"outputs[{index}].parameters"
            if parameters.get("classification") is not None:
                raise InvalidRequest(f"{path}.classification: classification of outputs isn't supported")
            _refuse_shared_memory(parameters, path)
            chosen[item.name] = RequestedOutput(item.name, _flag(parameters, "binary_data", path))
        return tuple(chosen.values())

    def _refuse_json(self, outputs: tuple[RequestedOutput, ...], binary: bool) -> None:
        """Refuse a request for an FP16 or BF16 output in JSON before the model computes it in vain."""
        for output in outputs or [RequestedOutput(name) for name in self._outputs]:
            datatype = self._outputs[output.name]
            if datatype in BINARY_ONLY and not (binary if output.binary is None else output.binary):
                raise InvalidRequest(f"output '{output.name}': {datatype} can only be sent as binary, not as JSON")


def decode_infer(
    body: bytes | memoryview,
    *,
    signature: Signature,
    model: str,
    version: str | None = None,
    json_length: int | None = None,
) -> InferenceRequest:
    """One request, as ``RequestDecoder.decode`` gives it; for callers that don't keep a decoder themselves."""
    return _decoder(model, signature).decode(body, json_length=json_length, version=version)


@lru_cache(maxsize=256)
def _decoder(model: str, signature: Signature) -> RequestDecoder:
    return RequestDecoder(model, signature)


def parse_json_length(value: str | bytes) -> int:
    """The header ``Inference-Header-Content-Length`` as a number. Raises ``InvalidRequest``."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidRequest(f"Inference-Header-Content-Length: expected a number of bytes, got {show(text)}")
    return int(text)


def _split(body: bytes | memoryview, json_length: int) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if json_length == 0:
        raise InvalidRequest("Inference-Header-Content-Length: raw binary requests without JSON aren't supported")
    if not 0 < json_length <= len(view):
        raise InvalidRequest(f"Inference-Header-Content-Length: {json_length} where the body has {len(view)} bytes")
    return view[:json_length], view[json_length:]


def _binary_size(item: WireTensor, name: str) -> int | None:
    """An input's ``binary_data_size``, or None where its elements stand in ``data``."""
    parameters = item.parameters or _NO_PARAMETERS
    _refuse_shared_memory(parameters, f"input '{name}'")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidRequest(f"input '{name}': binary_data_size: expected a number of bytes, got {kind_of(size)}")
    if item.data is not UNSET:
        raise InvalidRequest(f"input '{name}': has both data and binary_data_size")
    return size


def _take(tail: memoryview | None, start: int, size: int, name: str) -> memoryview:
    if tail is None:
        raise InvalidRequest(f"input '{name}': binary_data_size without the header Inference-Header-Content-Length")
    if size > len(tail) - start:
        left = len(tail) - start
        raise InvalidRequest(
            f"input '{name}': binary_data_size is {show(size)} where {left} bytes of the body are left"
        )
    return tail[start : start + size]


def _flag(parameters: Mapping[str, Any], key: str, path: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{path}.{key}: expected true or false, got {kind_of(value)}")
    return value


def _check_timeout(value: object) -> None:
    if type(value) is not int or not 0 < value <= _TIMEOUT_MAX_US:
        raise InvalidRequest(f"parameters.timeout: expected microseconds, an integer over 0, got {kind_of(value)}")


def _refuse_shared_memory(parameters: Mapping[str, Any], path: str) -> None:
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{path}: shared_memory_region: shared memory isn't supported")


def _shape_fault(shape: list[int], spec: TensorSpec) -> str:
    if len(shape) != len(spec.shape):
        given = f"{len(shape)} dimensions in the shape"
        return f"input '{spec.name}': {given} where the model takes {list(spec.shape)}"
    negative = any(size < 0 for size in shape)
    why = "has a negative size" if negative else f"where the model takes {list(spec.shape)}"
    return f"input '{spec.name}': shape {show(shape)} {why}"
