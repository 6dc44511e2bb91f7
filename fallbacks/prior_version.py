"""Another version of the model answers: one that is deployed and warm."""

from __future__ import annotations

from fallbacks.chain import Degraded, Question
from fallbacks.stand_in import Find, answer_for
from models.signature import Signature


class PriorVersion:
    """Asks one named version of the same model."""

    kind = "version"

    def __init__(self, version: str, signature: Signature, find: Find) -> None:
        self.name = f"version {version}"
        self._signature = signature
        self._find = find

    async def answer(self, question: Question) -> Degraded:
        return await answer_for(self._signature, self._find, question, kind=self.kind)
