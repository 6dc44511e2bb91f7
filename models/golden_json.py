"""Golden examples written by hand: one JSON object in the form of the Open Inference Protocol v2.

    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.0]}],
     "outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [1]}]}

Not here: the protocol as it is spoken on the wire (``serving.protocol``). FP16 and BF16 have no JSON form there either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from models.errors import InvalidGolden
from models.golden import Example, example_fault
from models.inference import DATATYPES, Array, element_count
from models.signature import Signature, TensorSpec

_WITHOUT_JSON_FORM: Final = ("FP16", "BF16")


class _JsonTensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _JsonExample(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_JsonTensor]
    outputs: list[_JsonTensor]


def read_json_example(raw: bytes, signature: Signature) -> Example:
    """The example in ``raw``. Raises ``InvalidGolden``, naming the tensor that is missing or doesn't fit."""
    try:
        document = msgspec.json.decode(raw, type=_JsonExample)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidGolden(f"the golden example can't be read as JSON: {error}") from error
    example = Example(
        _arrays("inputs", signature.inputs, document.inputs), _arrays("outputs", signature.outputs, document.outputs)
    )
    fault = example_fault(example, signature)
    if fault is not None:
        raise InvalidGolden(fault)
    return example


def _arrays(side: str, specs: tuple[TensorSpec, ...], tensors: list[_JsonTensor]) -> tuple[Array, ...]:
    given = {tensor.name: tensor for tensor in tensors}
    if len(given) != len(tensors) or given.keys() != {spec.name for spec in specs}:
        raise InvalidGolden(f"golden {side}: {[t.name for t in tensors]} where the model has {[s.name for s in specs]}")
    return tuple(_array(f"golden {side}: '{spec.name}'", spec, given[spec.name]) for spec in specs)


def _array(where: str, spec: TensorSpec, tensor: _JsonTensor) -> Array:
    if tensor.datatype != spec.datatype:
        raise InvalidGolden(f"{where} is {tensor.datatype}, not {spec.datatype}")
    if spec.datatype in _WITHOUT_JSON_FORM:
        raise InvalidGolden(f"{where} is {spec.datatype}, which has no JSON form; give a .npz file")
    elements = list(_flat(tensor.data))
    if min(tensor.shape, default=0) < 0 or len(elements) != element_count(tensor.shape):
        raise InvalidGolden(f"{where} has {len(elements)} elements for shape {list(tensor.shape)}")
    return _typed(where, spec, elements).reshape(tensor.shape)


def _typed(where: str, spec: TensorSpec, elements: list[Any]) -> Array:
    datatype = DATATYPES[spec.datatype]
    wanted = {"bool": (bool,), "int": (int,), "float": (int, float), "bytes": (str,)}[datatype.kind]
    for element in elements:
        if not isinstance(element, wanted) or (isinstance(element, bool) and datatype.kind != "bool"):
            raise InvalidGolden(f"{where} has {element!r} among its {spec.datatype} elements")
    if datatype.kind != "bytes":
        try:
            return np.array(elements, dtype=datatype.dtype)
        except OverflowError as error:
            raise InvalidGolden(f"{where}: {error}") from error
    array = np.empty(len(elements), dtype=object)
    array[:] = [element.encode() for element in elements]
    return array


def _flat(data: list[Any]) -> Iterator[Any]:
    for element in data:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element
