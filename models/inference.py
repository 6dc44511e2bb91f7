"""The types every part of Holdfast speaks: datatypes, tensors, and what goes into and comes out of a model.

Not here: wire forms (``serving.protocol``, ``serving.channel``), and what a particular model accepts
(``models.signature``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the Open Inference Protocol and the numpy dtype that holds it.

    ``itemsize`` is the number of bytes of one element on the wire, 0 for BYTES, whose elements vary.
    BF16 has no numpy dtype; its elements are kept as their 16 bits, in ``uint16``.
    """

    name: str
    dtype: np.dtype[Any]
    itemsize: int
    kind: str  # "bool", "int", "float" or "bytes"


def _datatype(name: str, dtype: str, kind: str) -> tuple[str, Datatype]:
    parsed = np.dtype(dtype)
    return name, Datatype(name, parsed, 0 if kind == "bytes" else parsed.itemsize, kind)


DATATYPES: Final[Mapping[str, Datatype]] = MappingProxyType(
    dict(
        (
            _datatype("BOOL", "?", "bool"),
            _datatype("UINT8", "<u1", "int"),
            _datatype("UINT16", "<u2", "int"),
            _datatype("UINT32", "<u4", "int"),
            _datatype("UINT64", "<u8", "int"),
            _datatype("INT8", "<i1", "int"),
            _datatype("INT16", "<i2", "int"),
            _datatype("INT32", "<i4", "int"),
            _datatype("INT64", "<i8", "int"),
            _datatype("FP16", "<f2", "float"),
            _datatype("FP32", "<f4", "float"),
            _datatype("FP64", "<f8", "float"),
            _datatype("BF16", "<u2", "float"),
            _datatype("BYTES", "O", "bytes"),
        )
    )
)
"""Every datatype of the protocol by its name (Open Inference Protocol v2, "Tensor Data Types")."""


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A named array. ``array`` has the tensor's shape and the dtype that ``DATATYPES[datatype]`` names.

    A BYTES tensor is an object array whose elements are ``bytes``.
    """

    name: str
    datatype: str
    array: Array

    @property
    def shape(self) -> Shape:
        return self.array.shape


Tensors = tuple[Tensor, ...]


def element_count(shape: Shape) -> int:
    """The number of elements of an array of this shape; 1 for a scalar."""
    return math.prod(shape)


def pack_bytes(array: Array) -> bytes:
    """The wire form of a BYTES tensor: each element's length (u32, little endian), then its bytes.

    Source: Open Inference Protocol v2, "Binary Tensor Data" extension.
    """
    parts: list[bytes] = []
    for element in array.ravel():
        parts.append(len(element).to_bytes(4, "little"))
        parts.append(element)
    return b"".join(parts)


def unpack_bytes(raw: bytes | bytearray | memoryview, shape: Shape) -> Array:
    """The BYTES tensor of this shape whose wire form is ``raw``.

    Raises ``ValueError`` when ``raw`` holds fewer or more elements or bytes than ``shape`` asks for.
    """
    view = memoryview(raw).cast("B")
    expected = element_count(shape)
    if expected * 4 > len(view):
        raise ValueError(f"{len(view)} bytes can't hold {expected} elements")
    elements: list[bytes] = []
    offset = 0
    while offset < len(view):
        if len(elements) == expected:
            raise ValueError(f"{len(view) - offset} bytes are left over after {expected} elements")
        end = offset + 4 + int.from_bytes(view[offset : offset + 4], "little")
        if offset + 4 > len(view) or end > len(view):
            raise ValueError(f"element {len(elements)} is cut short")
        elements.append(bytes(view[offset + 4 : end]))
        offset = end
    if len(elements) != expected:
        raise ValueError(f"{len(elements)} elements where the shape asks for {expected}")
    array = np.empty(expected, dtype=object)
    array[:] = elements
    return array.reshape(shape)


def bf16_to_float32(bits: Array) -> npt.NDArray[np.float32]:
    """The values of BF16 elements kept as ``uint16`` bits: BF16 is the upper half of a float32."""
    widened: npt.NDArray[np.float32] = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened


def numbers(tensor: Tensor) -> Array:
    """The tensor's elements as numbers that can be compared or checked; BF16 as float32.

    Raises ``TypeError`` for BYTES.
    """
    if tensor.datatype == "BYTES":
        raise TypeError(f"tensor '{tensor.name}' holds bytes, not numbers")
    return bf16_to_float32(tensor.array) if tensor.datatype == "BF16" else tensor.array


class RequestedOutput(msgspec.Struct, frozen=True, gc=False):
    """An output that a caller asked for; ``binary`` is None where the request didn't say."""

    name: str
    binary: bool | None = None


class InferenceRequest(msgspec.Struct, frozen=True):
    """A decoded request: every tensor has passed the model's signature.

    ``outputs`` is empty when the caller wants all of them. ``rows`` is the size of the batch dimension,
    1 for a model without one.
    """

    model: str
    inputs: Tensors
    rows: int = 1
    version: str | None = None
    id: str | None = None
    outputs: tuple[RequestedOutput, ...] = ()
    binary_outputs: bool = False
    parameters: Mapping[str, Any] = MappingProxyType({})


class InferenceResponse(msgspec.Struct, frozen=True):
    """A model's answer, in the order of its signature, and who gave it."""

    model: str
    version: str
    outputs: Tensors
    id: str | None = None
    parameters: Mapping[str, Any] = MappingProxyType({})
