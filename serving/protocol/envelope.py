"""The JSON part of an infer request as typed structs; each tensor's ``data`` is left for ``elements``.

Two readers give the same structs. The quick one is a typed msgspec decoder. What it refuses goes to the careful
one, the standard library's: it reads the NaN and Infinity literals that Triton accepts, and names the field
that is wrong. Not here: the model's signature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from serving.errors import InvalidRequest

NAN: Final = float("nan")
INFINITY: Final = float("inf")
NEGATIVE_INFINITY: Final = float("-inf")
"""The values of JSON's literals. ``load`` gives these very objects, so that an infinity which is another object
is known to be a finite literal that no 64-bit float can hold, like 1e400."""

_LITERALS: Final = {"NaN": NAN, "Infinity": INFINITY, "-Infinity": NEGATIVE_INFINITY}
LONG_BYTES: Final = 1 << 20
"""In a longer text numbers are read by functions in Python: other threads then get their turn between two of them."""

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN_CHARS: Final = 60


class WireTensor(msgspec.Struct):
    """One entry of ``inputs``. ``data`` is UNSET, ``msgspec.Raw``, or what ``load`` made of it."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = UNSET
    parameters: dict[str, Any] | None = None


class WireOutput(msgspec.Struct):
    """One entry of ``outputs``."""

    name: str
    parameters: dict[str, Any] | None = None


class Envelope(msgspec.Struct):
    """An infer request as it was written. Absent and null are the same, except for ``data``."""

    inputs: Sequence[WireTensor]
    outputs: list[WireOutput] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class _RawTensor(WireTensor):
    data: msgspec.Raw | UnsetType = UNSET


class _RawEnvelope(Envelope):
    inputs: list[_RawTensor]


_quick = msgspec.json.Decoder(_RawEnvelope).decode


def read_envelope(text: bytes | memoryview) -> Envelope:
    """The request that this JSON text is. Raises ``InvalidRequest``, naming the field."""
    try:
        return _quick(text)
    except (ValueError, RecursionError):
        return _careful(load(text))


def load(text: bytes | memoryview | msgspec.Raw, where: str = "the body") -> Any:
    """Any JSON text as Python values, integers exact. Raises ``InvalidRequest``, naming ``where`` the text stands."""
    try:
        decoded = str(text, "utf-8")
    except UnicodeDecodeError as fault:
        raise InvalidRequest(f"{where} isn't UTF-8: invalid byte at position {fault.start}") from None
    try:
        if len(decoded) <= LONG_BYTES:
            value = json.loads(decoded, parse_constant=_LITERALS.__getitem__)
        else:
            value = json.loads(decoded, parse_constant=_LITERALS.__getitem__, parse_int=_int, parse_float=_float)
        if _SURROGATE.search(decoded):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidRequest(f"{where} is nested too deeply") from None
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where} holds half a surrogate pair, which isn't a character") from None
    except json.JSONDecodeError as fault:
        if not decoded.strip():
            raise InvalidRequest(f"{where} is empty, not a JSON object") from None
        raise InvalidRequest(f"{where} isn't valid JSON: {fault.msg} at position {fault.pos}") from None
    except ValueError:
        raise InvalidRequest(f"{where} holds a number of too many digits") from None
    return value


def _int(text: str) -> int:
    return int(text)


def _float(text: str) -> float:
    return float(text)


def show(value: object) -> str:
    """The value as a caller would have written it, cut to a length that fits into an error."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return f"'{text}'" if isinstance(value, str) else text


def kind_of(value: object) -> str:
    """What the value is in JSON, for "expected ..., got ..."; a number or a literal is shown."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return "a string"
    return show(value)


def _careful(value: Any) -> Envelope:
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body: expected an object, got {kind_of(value)}")
    inputs = _array(value, "inputs", "inputs")
    outputs = _array(value, "outputs", "outputs") if value.get("outputs") is not None else None
    ident = value.get("id")
    if ident is not None and not isinstance(ident, str):
        raise InvalidRequest(f"id: expected a string, got {kind_of(ident)}")
    return Envelope(
        inputs=[_tensor(item, f"inputs[{index}]") for index, item in enumerate(inputs)],
        outputs=None if outputs is None else [_output(item, f"outputs[{index}]") for index, item in enumerate(outputs)],
        id=ident,
        parameters=_parameters(value, "parameters"),
    )


def _tensor(item: Any, path: str) -> WireTensor:
    if not isinstance(item, dict):
        raise InvalidRequest(f"{path}: expected an object, got {kind_of(item)}")
    shape = _array(item, "shape", f"{path}.shape")
    for index, size in enumerate(shape):
        if type(size) is not int:
            raise InvalidRequest(f"{path}.shape[{index}]: expected an integer, got {kind_of(size)}")
    return WireTensor(
        name=_string(item, "name", f"{path}.name"),
        shape=shape,
        datatype=_string(item, "datatype", f"{path}.datatype"),
        data=item.get("data", UNSET),
        parameters=_parameters(item, f"{path}.parameters"),
    )


def _output(item: Any, path: str) -> WireOutput:
    if not isinstance(item, dict):
        raise InvalidRequest(f"{path}: expected an object, got {kind_of(item)}")
    return WireOutput(
        name=_string(item, "name", f"{path}.name"),
        parameters=_parameters(item, f"{path}.parameters"),
    )


def _array(holder: dict[str, Any], key: str, path: str) -> list[Any]:
    if key not in holder:
        raise InvalidRequest(f"{path}: missing")
    value = holder[key]
    if not isinstance(value, list):
        raise InvalidRequest(f"{path}: expected an array, got {kind_of(value)}")
    return value


def _string(holder: dict[str, Any], key: str, path: str) -> str:
    if key not in holder:
        raise InvalidRequest(f"{path}: missing")
    value = holder[key]
    if not isinstance(value, str):
        raise InvalidRequest(f"{path}: expected a string, got {kind_of(value)}")
    return value


def _parameters(holder: dict[str, Any], path: str) -> dict[str, Any] | None:
    value = holder.get("parameters")
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"{path}: expected an object, got {kind_of(value)}")
    return value
