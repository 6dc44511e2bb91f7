"""The few bytes of an ONNX file that say which runtime it needs, and an empty model that needs the same.

Reading them takes no package, so a replica can refuse a model without the ``onnx`` library, and before it has read
gigabytes of weights. Field numbers are those of ``onnx.proto``; the encoding is Protocol Buffers' own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from models.errors import InvalidArtifact

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_MODEL_IR_VERSION: Final = 1
_MODEL_GRAPH: Final = 7
_MODEL_OPSET: Final = 8
_LARGEST_OPSET_BYTES: Final = 4096


class OnnxHeader(NamedTuple):
    """The IR version, and the operator sets as (domain, version); the domain of the standard operators is empty."""

    ir_version: int
    opsets: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        sets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opsets)
        return f"IR version {self.ir_version} with operator sets {sets or 'none'}"


def read_header(path: Path) -> OnnxHeader:
    """The header of an ONNX file. Raises ``InvalidArtifact`` if the file isn't one."""
    ir_version, opsets, has_graph = 0, [], False
    try:
        with path.open("rb") as file:
            for number, value in _fields(file, path.stat().st_size):
                if number == _MODEL_IR_VERSION and isinstance(value, int):
                    ir_version = value
                elif number == _MODEL_OPSET and isinstance(value, bytes):
                    opsets.append(_opset(value))
                has_graph = has_graph or number == _MODEL_GRAPH
    except ValueError as error:
        raise InvalidArtifact(f"'{path.name}' isn't an ONNX model: {error}") from error
    if not ir_version or not has_graph:
        raise InvalidArtifact(f"'{path.name}' isn't an ONNX model: it has no {'graph' if ir_version else 'IR version'}")
    return OnnxHeader(ir_version, tuple(opsets))


def empty_model(header: OnnxHeader) -> bytes:
    """The smallest model with this header: its one output is its one input, without an operator."""
    tensor_type = _message(1, _number(1, 1) + _message(2, _message(1, _number(1, 1))))  # FLOAT[1]
    value = _message(1, b"x") + _message(2, tensor_type)
    graph = _message(2, b"empty") + _message(11, value) + _message(12, value)
    sets = b"".join(
        _message(8, _message(1, domain.encode()) + _number(2, version)) for domain, version in header.opsets
    )
    return _number(_MODEL_IR_VERSION, header.ir_version) + _message(_MODEL_GRAPH, graph) + sets


def _opset(raw: bytes) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in _fields(BytesIO(raw), len(raw)):
        if number == 1 and isinstance(value, bytes):
            domain = value.decode()
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int | bytes]]:
    """Every field's number and value; long ones, such as the graph, are skipped and come as empty bytes."""
    while file.tell() < size:
        key = _read_varint(file)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            yield number, _read_varint(file)
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if length is None:
            if wire != _LENGTH or number == 0:
                raise ValueError(f"unknown field {number} of type {wire} at byte {file.tell()}")
            length = _read_varint(file)
        if file.tell() + length > size:
            raise ValueError("it is cut short")
        if length <= _LARGEST_OPSET_BYTES:
            yield number, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)
            yield number, b""


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it is cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is too long")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _message(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(payload)) + payload
