"""What a model version accepts and gives: names, datatypes and shapes of its tensors.

Not here: decoding (``serving.protocol``), the values inside a tensor, and how a backend finds its signature
(``models.backends``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from models.errors import InvalidSignature
from models.inference import DATATYPES, Shape, Tensors

ANY = -1
"""A dimension of any size, as the Open Inference Protocol writes it."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output. ``shape`` includes the batch dimension, if the model has one."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidSignature("a tensor has an empty name")
        if self.datatype not in DATATYPES:
            raise InvalidSignature(f"tensor '{self.name}' has an unknown datatype '{self.datatype}'")
        if any(size < ANY for size in self.shape):
            raise InvalidSignature(f"tensor '{self.name}' has a negative dimension in {list(self.shape)}")

    def fits(self, shape: Shape) -> bool:
        """Whether an array of this shape may be this tensor."""
        mine = self.shape
        if len(shape) != len(mine):
            return False
        for size, want in zip(shape, mine, strict=True):  # noqa: SIM110  # every answer comes by here
            if size != want and want != ANY:
                return False
        return True


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All inputs and outputs, in the model's own order.

    ``batched`` says that the first dimension of every tensor is the batch: rows that don't know of each other,
    so that requests can share one run of the model.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = False

    def __post_init__(self) -> None:
        self._refuse_duplicates("input", self.inputs)
        self._refuse_duplicates("output", self.outputs)
        if not self.inputs or not self.outputs:
            raise InvalidSignature("a model needs at least one input and one output")
        if self.batched:
            for spec in self.inputs + self.outputs:
                if not spec.shape or spec.shape[0] != ANY:
                    raise InvalidSignature(
                        f"the model is batched, but the first dimension of '{spec.name}' isn't {ANY}: {spec.shape}"
                    )

    @staticmethod
    def _refuse_duplicates(what: Literal["input", "output"], specs: tuple[TensorSpec, ...]) -> None:
        names = [spec.name for spec in specs]
        for name in names:
            if names.count(name) > 1:
                raise InvalidSignature(f"{what} '{name}' stands twice in the signature")

    def answer_fault(self, outputs: Tensors, rows: int) -> str | None:
        """What is wrong with an answer to a request of ``rows`` rows, or None.

        Every output must be there, in order, with its datatype, a shape that fits and, for a batched model,
        as many rows as were asked for.
        """
        if len(outputs) != len(self.outputs):
            return f"{len(outputs)} outputs where the signature has {len(self.outputs)}"
        for tensor, spec in zip(outputs, self.outputs, strict=True):
            if tensor.name != spec.name:
                return f"output '{tensor.name}' where the signature has '{spec.name}'"
            if tensor.datatype != spec.datatype:
                return f"output '{spec.name}' is {tensor.datatype}, not {spec.datatype}"
            if not spec.fits(tensor.shape):
                return f"output '{spec.name}' has shape {list(tensor.shape)}, not {list(spec.shape)}"
            if self.batched and tensor.shape[0] != rows:
                return f"output '{spec.name}' has {tensor.shape[0]} rows for {rows}"
        return None
