"""What the model answered to the same inputs before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fallbacks.chain import Degraded, Question, Unusable
from models.inference import Tensors


class Remembered(NamedTuple):
    """An answer that was kept; ``where`` is the store that had it, ``age_s`` in seconds."""

    outputs: Tensors
    model: str
    version: str
    age_s: float
    where: str


Recall = Callable[[Question], Awaitable[Remembered | None]]
"""Looks for an answer that may still be given; returns by the question's deadline."""


class CachedPrediction:
    """Answers from memory, and says how old the answer is."""

    kind = "cache"
    name = "cache"

    def __init__(self, recall: Recall) -> None:
        self._recall = recall

    async def answer(self, question: Question) -> Degraded:
        found = await self._recall(question)
        if found is None:
            raise Unusable("no answer to these inputs that may still be given")
        return Degraded(found.outputs, found.model, found.version, self.kind, found.age_s, found.where)
