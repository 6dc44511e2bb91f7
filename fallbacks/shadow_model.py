"""Another model answers: a smaller one, say, that takes the same inputs and gives the same outputs."""

from __future__ import annotations

from fallbacks.chain import Degraded, Question
from fallbacks.stand_in import Find, answer_for
from models.signature import Signature


class ShadowModel:
    """Asks whatever version is the other model's stable one at the time."""

    kind = "model"

    def __init__(self, model: str, signature: Signature, find: Find) -> None:
        self.name = f"model {model}"
        self._signature = signature
        self._find = find

    async def answer(self, question: Question) -> Degraded:
        return await answer_for(self._signature, self._find, question, kind=self.kind)
