"""Golden examples: inputs with the outputs that a version promised for them, their file form and the comparison.

A file is a ``.npz`` without pickled objects. Its keys are ``<example>/inputs/<tensor>`` and
``<example>/outputs/<tensor>``, examples counted from 0. A BYTES tensor takes two entries, ``.../bytes`` (its wire
form, UINT8) and ``.../shape``. A person's file with a single example may leave out the number, and where no name
stands on both sides ``inputs/`` and ``outputs/`` too. Not here: running a model.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np

from models.errors import GoldenMismatch, InvalidGolden
from models.inference import DATATYPES, Array, Tensor, numbers, pack_bytes, unpack_bytes
from models.manifest import Golden
from models.signature import Signature, TensorSpec

GOLDEN_FILE: Final = "golden.npz"
_NUMBERED: Final = re.compile(r"\d+/(inputs|outputs)/")
_UNREADABLE: Final = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class Example(NamedTuple):
    """Arrays in the order of the signature's inputs and outputs, each of its datatype."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    def feed(self, signature: Signature) -> dict[str, Array]:
        """The inputs by name, as a backend takes them."""
        return {spec.name: array for spec, array in zip(signature.inputs, self.inputs, strict=True)}


def write_examples(examples: Sequence[Example], signature: Signature) -> bytes:
    """The file form of these examples. The same examples always give the same bytes."""
    entries: dict[str, Array] = {}
    for index, example in enumerate(examples):
        for side, specs, arrays in _sides(signature, example):
            for spec, array in zip(specs, arrays, strict=True):
                _put(entries, f"{index}/{side}/{spec.name}", spec, array)
    buffer = io.BytesIO()
    # The stubs take any keyword for allow_pickle, which is a bool; these keys all start with a digit.
    np.savez(buffer, allow_pickle=False, **cast("Any", entries))
    return buffer.getvalue()


def read_examples(raw: bytes, signature: Signature) -> tuple[Example, ...]:
    """The examples in a file. Raises ``InvalidGolden``, naming the tensor that is missing or doesn't fit."""
    entries = _entries(raw)
    if not entries:
        raise InvalidGolden("there is no golden example in the file")
    if any(key.startswith(("inputs/", "outputs/")) for key in entries):
        return (_example(entries, "inputs/", "outputs/", signature),)
    if not any(_NUMBERED.match(key) for key in entries):
        return (_example(entries, "", "", signature),)
    count = len({key.partition("/")[0] for key in entries})
    return tuple(_example(entries, f"{index}/inputs/", f"{index}/outputs/", signature) for index in range(count))


def example_fault(example: Example, signature: Signature) -> str | None:
    """Why an example isn't one for this signature, or None: count, datatype and shape of every tensor, equal rows."""
    rows: set[int] = set()
    for side, specs, arrays in _sides(signature, example):
        if len(specs) != len(arrays):
            return f"{len(arrays)} {side} where the signature has {len(specs)}"
        for spec, array in zip(specs, arrays, strict=True):
            fault = array_fault(spec, array)
            if fault is not None:
                return f"golden {side}: '{spec.name}' {fault}"
            rows.update(array.shape[:1])
    if signature.batched and (len(rows) != 1 or 0 in rows):
        return f"golden examples need the same number of rows in every tensor, at least one, not {sorted(rows)}"
    return None


def array_fault(spec: TensorSpec, array: Array) -> str | None:
    """Why an array isn't one for this tensor, by datatype or shape, or None."""
    wanted = DATATYPES[spec.datatype].dtype
    if array.dtype != wanted:
        return f"is {array.dtype}, and {spec.datatype} needs {wanted}"
    if not spec.fits(array.shape):
        return f"has shape {list(array.shape)}, not {list(spec.shape)}"
    return None


def difference(outputs: Sequence[Array], expected: Sequence[Array], signature: Signature, golden: Golden) -> str | None:
    """The first way in which an answer isn't the expected one, or None.

    Floats may differ by the golden's tolerance, and NaN equals NaN; everything else has to be equal.
    """
    if len(outputs) != len(signature.outputs):
        return f"{len(outputs)} outputs where the signature has {len(signature.outputs)}"
    for spec, array, wanted in zip(signature.outputs, outputs, expected, strict=True):
        if array.dtype != wanted.dtype:
            return f"output '{spec.name}' is {array.dtype} where {wanted.dtype} was expected"
        if array.shape != wanted.shape:
            return f"output '{spec.name}' has shape {list(array.shape)} where {list(wanted.shape)} was expected"
        fault = _value_fault(spec, array, wanted, golden)
        if fault is not None:
            return fault
    return None


def check_example(
    example: Example, run: Callable[[Mapping[str, Array]], list[Array]], signature: Signature, golden: Golden
) -> None:
    """Runs the example's inputs and raises ``GoldenMismatch`` if the answer isn't the expected one."""
    fault = difference(run(example.feed(signature)), example.outputs, signature, golden)
    if fault is not None:
        raise GoldenMismatch(f"the golden example isn't met: {fault}")


def _sides(signature: Signature, example: Example) -> Iterable[tuple[str, tuple[TensorSpec, ...], tuple[Array, ...]]]:
    return ("inputs", signature.inputs, example.inputs), ("outputs", signature.outputs, example.outputs)


def _put(entries: dict[str, Array], key: str, spec: TensorSpec, array: Array) -> None:
    if spec.datatype == "BYTES":
        entries[f"{key}/bytes"] = np.frombuffer(pack_bytes(array), dtype=np.uint8)
        entries[f"{key}/shape"] = np.array(array.shape, dtype=np.int64)
    else:
        entries[key] = array


def _entries(raw: bytes) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except _UNREADABLE as error:
        raise InvalidGolden(f"the golden examples can't be read as .npz without pickles: {error}") from error
    except (AttributeError, TypeError) as error:  # a single array has neither keys nor an end
        raise InvalidGolden("the golden examples are one .npy array, not a .npz of named arrays") from error


def _example(entries: Mapping[str, Array], inputs: str, outputs: str, signature: Signature) -> Example:
    example = Example(
        tuple(_get(entries, inputs + spec.name, spec) for spec in signature.inputs),
        tuple(_get(entries, outputs + spec.name, spec) for spec in signature.outputs),
    )
    fault = example_fault(example, signature)
    if fault is not None:
        raise InvalidGolden(fault)
    return example


def _get(entries: Mapping[str, Array], key: str, spec: TensorSpec) -> Array:
    try:
        if spec.datatype != "BYTES":
            return entries[key]
        shape = tuple(int(size) for size in entries[f"{key}/shape"])
        return unpack_bytes(entries[f"{key}/bytes"].tobytes(), shape)
    except KeyError as error:
        raise InvalidGolden(f"there is no {error} among the golden examples") from error
    except ValueError as error:
        raise InvalidGolden(f"golden example '{key}': {error}") from error


def _value_fault(spec: TensorSpec, array: Array, wanted: Array, golden: Golden) -> str | None:
    if DATATYPES[spec.datatype].kind == "float":
        array, wanted = _widened(spec, array), _widened(spec, wanted)
        good = np.isclose(array, wanted, rtol=golden.relative_tolerance, atol=golden.absolute_tolerance, equal_nan=True)
        allowed = f" (tolerance {golden.absolute_tolerance:g} + {golden.relative_tolerance:g} of it)"
    else:
        good = np.asarray(array == wanted)
        allowed = ""
    if good.all():
        return None
    at = tuple(int(index) for index in np.argwhere(~good)[0])
    wrong = int(good.size - np.count_nonzero(good))
    return (
        f"output '{spec.name}' is {array[at]} at {list(at)} where {wanted[at]} was expected{allowed}; "
        f"{wrong} of {good.size} elements differ"
    )


def _widened(spec: TensorSpec, array: Array) -> Array:
    return numbers(Tensor(spec.name, spec.datatype, array)).astype(np.float64)
