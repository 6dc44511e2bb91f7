"""The same answer to everything: better than none, where a neutral answer exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from fallbacks.chain import Degraded, Question
from models.inference import DATATYPES, Array, Tensor
from models.signature import ANY, Signature, TensorSpec

VERSION: Final = "static"
"""What stands in the place of a version in such an answer."""


class InvalidStatic(Exception):
    """The elements can't be an answer of the model; the text names the output."""


class StaticAnswer:
    """Repeats one row for as many rows as are asked for."""

    kind = "static"
    name = "static"

    def __init__(self, model: str, signature: Signature, outputs: Mapping[str, Sequence[Any]]) -> None:
        """Raises ``InvalidStatic``."""
        if unknown := sorted(set(outputs) - {spec.name for spec in signature.outputs}):
            raise InvalidStatic(f"outputs.{unknown[0]}: the model has no such output")
        self._model = model
        self._batched = signature.batched
        self._row = tuple(
            [(spec, _array(spec, _elements(spec, outputs), batched=signature.batched)) for spec in signature.outputs]
        )

    async def answer(self, question: Question) -> Degraded:
        rows = question.request.rows
        outputs = tuple(
            [
                Tensor(spec.name, spec.datatype, np.repeat(array, rows, axis=0) if self._batched else array)
                for spec, array in self._row
            ]
        )
        return Degraded(outputs, self._model, VERSION, self.kind)


def _elements(spec: TensorSpec, outputs: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    if spec.name not in outputs:
        raise InvalidStatic(f"outputs.{spec.name}: the model has this output, and no elements are given for it")
    return outputs[spec.name]


def _array(spec: TensorSpec, elements: Sequence[Any], *, batched: bool) -> Array:
    """One row of the output, or the whole output of a model without a batch dimension."""
    where = f"outputs.{spec.name}"
    shape = (1, *spec.shape[1:]) if batched else spec.shape
    if ANY in shape:
        raise InvalidStatic(f"{where}: its shape {list(spec.shape)} isn't fixed, so no static answer has it")
    size = int(np.prod(shape, dtype=np.int64))
    if len(elements) != size:
        raise InvalidStatic(f"{where}: {len(elements)} elements where {size} are needed")
    for index, element in enumerate(elements):
        if (fault := _fault(element, spec.datatype)) is not None:
            raise InvalidStatic(f"{where}[{index}]: {element!r} is {fault}")
    array: Array
    if spec.datatype == "BYTES":
        array = np.empty(size, dtype=object)
        array[:] = [element.encode() for element in elements]
        return array.reshape(shape)
    if spec.datatype == "BF16":  # the upper half of a 32-bit float
        return (np.array(elements, dtype="<f4").view("<u4") >> 16).astype("<u2").reshape(shape)
    return np.array(elements, dtype=DATATYPES[spec.datatype].dtype).reshape(shape)


def _fault(element: Any, datatype: str) -> str | None:
    """What is wrong with an element, or None. A number has to be there in the datatype, and as a finite one."""
    kind, dtype = DATATYPES[datatype].kind, DATATYPES[datatype].dtype
    fits = isinstance(element, _TYPES[kind]) and isinstance(element, bool) == (kind == "bool")
    if not fits:
        return f"no {datatype}"
    if kind == "int" and not np.iinfo(dtype).min <= element <= np.iinfo(dtype).max:
        return f"no {datatype}"
    if kind == "float":
        try:
            with np.errstate(over="ignore"):
                finite = bool(np.isfinite(np.array(element, "<f4" if datatype == "BF16" else dtype)))
        except OverflowError:  # an integer of hundreds of digits
            finite = False
        return None if finite else f"no finite {datatype}"
    return None


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {"bool": (bool,), "bytes": (str,), "int": (int,), "float": (int, float)}
