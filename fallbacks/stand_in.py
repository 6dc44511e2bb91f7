"""Whether and how one version answers for another.

Shared by the strategies that ask a version: the prior one of the same model, or another model's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fallbacks.chain import Degraded, Question, Unusable
from models.inference import Tensors
from models.signature import Signature, TensorSpec


class StandIn(NamedTuple):
    """A version that could answer, and how to ask it.

    ``ask`` raises ``Unusable``, and returns or raises by the question's deadline.
    """

    model: str
    version: str
    signature: Signature
    ask: Callable[[Question], Awaitable[Tensors]]


Find = Callable[[], StandIn | None]
"""The version that would be asked now, if it is served."""


async def answer_for(signature: Signature, find: Find, question: Question, *, kind: str) -> Degraded:
    """The answer of whoever stands in for a model with this signature. Raises ``Unusable``."""
    other = find()
    if other is None:
        raise Unusable("it isn't served")
    if (fault := stand_in_fault(signature, other.signature)) is not None:
        raise Unusable(fault)
    return Degraded(await other.ask(question), other.model, other.version, kind)


def stand_in_fault(model: Signature, other: Signature) -> str | None:
    """Why a model with the second signature can't answer for one with the first, or None if it can.

    It has to take every input that the first one takes, and may give only what the first one could have given.
    """
    if model == other:
        return None
    if model.batched != other.batched:
        return "only one of the two has a batch dimension"
    for what, wide, narrow in (("input", other.inputs, model.inputs), ("output", model.outputs, other.outputs)):
        if [spec.name for spec in wide] != [spec.name for spec in narrow]:
            return f"its {what}s have other names or another order"
        for mine, theirs in zip(wide, narrow, strict=True):
            if not _covers(mine, theirs):
                return f"its {what} '{mine.name}' has another datatype or shape"
    return None


def _covers(wide: TensorSpec, narrow: TensorSpec) -> bool:
    return wide.datatype == narrow.datatype and wide.fits(narrow.shape)
