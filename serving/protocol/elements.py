"""The elements of one input, from JSON or from raw bytes, as an array of the datatype the model takes.

A JSON array of the right length and of nothing but right numbers is read by a typed decoder and packed in C, which
checks each value's range. Anything else goes through the standard library's reader, for an answer or for an error that
names the element. Not here: whether the shape is one that the model takes (``decode``).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from types import GenericAlias
from typing import Any, Final

import msgspec
import numpy as np

from models.inference import Array, Datatype, unpack_bytes
from serving.errors import InvalidRequest
from serving.protocol.envelope import INFINITY, NEGATIVE_INFINITY, kind_of, load, show

BINARY_ONLY: Final = frozenset({"FP16", "BF16"})
"""Datatypes that JSON can't carry (Open Inference Protocol v2, "Tensor Data Types")."""

_FORMATS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
_FLAT_TYPES: Final[dict[str, Any]] = {
    "bool": list[bool],
    "int": list[int],
    "float": list[float],
    "bytes": list[str],
}
_ALLOWED: Final[dict[str, set[type]]] = {"bool": {bool}, "int": {int}, "float": {float, int}, "bytes": {str}}
_EXPECTED: Final = {"bool": "true or false", "int": "an integer", "float": "a number", "bytes": "a string"}


class ElementReader:
    """Reads the elements of one input of a signature: its datatype and the number of its dimensions are fixed."""

    __slots__ = ("_allowed", "_dtype", "_expected", "_flat", "_format", "_kind", "_name", "_nested", "_rank")

    def __init__(self, datatype: Datatype, rank: int) -> None:
        self._name = datatype.name
        self._kind = datatype.kind
        self._dtype = datatype.dtype
        self._rank = rank
        self._format = _FORMATS.get(datatype.name, "")
        self._expected = _EXPECTED[datatype.kind]
        self._allowed = _ALLOWED[datatype.kind]
        array: Any = _FLAT_TYPES[datatype.kind]
        self._flat = msgspec.json.Decoder(array).decode
        for _ in range(rank - 1):
            array = GenericAlias(list, (array,))
        self._nested = msgspec.json.Decoder(array).decode

    def from_json(self, data: Any, *, shape: list[int], count: int, index: int) -> Array:
        """The array that the JSON value ``data`` of ``inputs[index]`` is, flat or nested as ``shape`` is.

        Raises ``InvalidRequest``.
        """
        if type(data) is msgspec.Raw:
            values = self._typed(data, shape)
            if values is not None and len(values) == count:
                try:
                    return self._packed(values, shape)
                except (struct.error, OverflowError):
                    pass  # out of range: the careful reader says which one
            data = load(data, f"inputs[{index}].data")
        return self._careful(data, shape=shape, count=count, path=f"inputs[{index}].data")

    def from_binary(self, raw: memoryview, *, shape: list[int], count: int) -> Array:
        """The array whose wire form is ``raw``, without a copy unless it is BYTES.

        Raises ``ValueError`` with what is wrong.
        """
        if self._kind == "bytes":
            return unpack_bytes(raw, tuple(shape))
        needed = count * self._dtype.itemsize
        if len(raw) != needed:
            raise ValueError(f"binary_data_size is {len(raw)} where shape {show(shape)} needs {needed} bytes")
        if self._kind == "bool" and count and np.frombuffer(raw, np.uint8).max() > 1:
            raise ValueError("a BOOL is a byte 0 or 1")
        return np.ndarray(shape, self._dtype, raw)

    def _typed(self, data: msgspec.Raw, shape: list[int]) -> list[Any] | None:
        """All elements in one list, or None if the typed decoder can't read ``data`` or the nesting is wrong."""
        try:
            values: list[Any] = self._flat(data)
        except (ValueError, RecursionError):
            if self._rank < 2:
                return None
        else:
            return values
        try:
            level: list[Any] = self._nested(data)
        except (ValueError, RecursionError):
            return None
        if len(level) != shape[0]:
            return None
        for size in shape[1:]:
            if not {size}.issuperset(map(len, level)):
                return None
            level = list(chain.from_iterable(level))
        return level

    def _packed(self, values: list[Any], shape: Sequence[int]) -> Array:
        """Right-typed values as an array; raises ``struct.error`` or ``OverflowError`` if one is out of range."""
        if self._kind == "bytes":
            array = np.empty(len(values), dtype=object)
            array[:] = [value.encode() for value in values]
            return array.reshape(shape)
        return np.ndarray(shape, self._dtype, struct.pack(f"<{len(values)}{self._format}", *values))

    def _careful(self, data: Any, *, shape: list[int], count: int, path: str) -> Array:
        if not isinstance(data, list):
            raise InvalidRequest(f"{path}: expected an array, got {kind_of(data)}")
        nested = self._rank > 1 and list in map(type, data)
        values = _unnested(data, shape, path) if nested else data
        if len(values) != count:
            raise InvalidRequest(f"{path}: {len(values)} elements where shape {show(shape)} needs {count}")
        array = self._array(values)
        if array is None:
            position = self._first_wrong(values)
            subscript = _subscript(position, shape if nested else ())
            raise InvalidRequest(f"{path}{subscript}: {self._fault(values[position])}")
        return array.reshape(shape)

    def _array(self, values: list[Any]) -> Array | None:
        """The values as a flat array, or None if one of them isn't an element."""
        if not self._allowed.issuperset(map(type, values)):
            return None
        try:
            array = self._packed(values, (len(values),))
        except (struct.error, OverflowError):
            return None
        if self._kind == "float" and any(_overflown(values[at]) for at in np.flatnonzero(np.isinf(array)).tolist()):
            return None
        return array

    def _first_wrong(self, values: list[Any]) -> int:
        """The position of the first value that isn't an element; there is one.

        By halves, which go to C whole: looking at them one by one takes seconds for what a request may hold.
        """
        start, end = 0, len(values)
        while end - start > 1:
            middle = (start + end) // 2
            if self._array(values[start:middle]) is None:
                end = middle
            else:
                start = middle
        return start

    def _fault(self, value: object) -> str:
        """What keeps a JSON value from being an element."""
        if type(value) not in self._allowed:
            return f"expected {self._expected}, got {kind_of(value)}"
        if _overflown(value):
            return f"a number out of range for {self._name}"
        return f"{show(value)} is out of range for {self._name}"


def _overflown(value: object) -> bool:
    """Whether it is a finite literal that no 64-bit float can hold."""
    return isinstance(value, float) and math.isinf(value) and value is not INFINITY and value is not NEGATIVE_INFINITY


def _unnested(data: list[Any], shape: list[int], path: str) -> list[Any]:
    """The elements of an array nested as ``shape`` is, in row-major order."""
    level: list[Any] = [data]
    for depth, size in enumerate(shape):
        if not ({list}.issuperset(map(type, level)) and {size}.issuperset(map(len, level))):
            position = next(at for at, entry in enumerate(level) if type(entry) is not list or len(entry) != size)
            entry, where = level[position], path + _subscript(position, shape[:depth]) if depth else path
            if type(entry) is not list:
                raise InvalidRequest(f"{where}: expected an array, got {kind_of(entry)}")
            raise InvalidRequest(f"{where}: {len(entry)} entries where the shape has {size}")
        level = list(chain.from_iterable(level))
    return level


def _subscript(position: int, shape: Sequence[int]) -> str:
    """Where the element at a flat position stands in ``data``: ``[5]``, or ``[1][2]`` in nested data."""
    subscript = ""
    for size in reversed(shape[1:]):
        position, index = divmod(position, size)
        subscript = f"[{index}]{subscript}"
    return f"[{position}]{subscript}"
