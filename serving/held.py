"""The memory that tensors hold, and tensors that hold none of others.

Whoever keeps a tensor that is a view keeps all that it was cut from: a whole batch, or a request's body. Not here: how
much may be kept (each queue says so for itself).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.inference import Array, Tensor, Tensors

COPY_BELOW_BYTES: Final = 1 << 16
"""A smaller array that is a view is copied, so that it doesn't keep the memory of a whole batch or body."""

_ELEMENT_BYTES: Final = 40  # what a bytes object takes beside its bytes


def kept(tensors: Tensors) -> tuple[Tensors, int]:
    """The same tensors without the memory of others that small views would keep, and the bytes that they do keep."""
    if len(tensors) == 1:
        tensor, total = _kept(tensors[0])
        return (tensor,), total
    total = 0
    mine: list[Tensor] = []
    for each in tensors:
        tensor, size = _kept(each)
        mine.append(tensor)
        total += size
    return tuple(mine), total


def _kept(tensor: Tensor) -> tuple[Tensor, int]:
    array = tensor.array
    size = array.nbytes
    base: object = array.base
    if tensor.datatype == "BYTES":
        size += sum(map(len, array.flat)) + _ELEMENT_BYTES * array.size
    elif base is None or (type(base) is bytes and len(base) == size):
        return tensor, size
    if array.nbytes > COPY_BELOW_BYTES:
        return tensor, max(size, held_bytes(array))
    if base is None:
        return tensor, size
    return Tensor(tensor.name, tensor.datatype, array.copy()), size


def held_bytes(array: Array) -> int:
    """The bytes of all the memory that ``array``, a view, keeps alive."""
    owner: object = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if isinstance(owner, bytes | bytearray):
        return len(owner)
    return max(array.nbytes, getattr(owner, "nbytes", 0))
