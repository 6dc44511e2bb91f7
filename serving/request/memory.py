"""One model's cached predictions: what is kept, and what may still be given.

Not here: where they are kept (``serving.cache``), and when they are asked for (``serving.request.pipeline``).
"""

from __future__ import annotations

from collections.abc import Callable

from fallbacks.cached_prediction import Remembered
from fallbacks.chain import Question
from models.inference import Tensors
from serving.cache.tiers import Hit, PredictionCache
from serving.clock import Clock

RECALL_MAX_S = 1.0
"""A lookup takes a tenth of a millisecond, or Redis' timeout; nobody waits longer than this for one."""


class Memory:
    """The cache as one model sees it; ``withdrawn`` says of a version's digest whether its answers are taken back."""

    def __init__(
        self,
        cache: PredictionCache,
        *,
        model: str,
        signature_digest: str,
        fresh_s: float,
        withdrawn: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._model = model
        self._signature_digest = signature_digest
        self._fresh_s = fresh_s
        self._withdrawn = withdrawn
        self._clock = clock

    def remember(self, version: str, digest: str, inputs: Tensors, outputs: Tensors) -> None:
        """Keep a good answer, later and elsewhere: this neither waits nor fails."""
        self._cache.remember(
            model=self._model,
            signature_digest=self._signature_digest,
            version=version,
            version_digest=digest,
            inputs=inputs,
            outputs=outputs,
        )

    def fresh(self, inputs: Tensors, digest: str) -> Remembered | None:
        """An answer of this very version that is as good as a new one, from this node's store."""
        if not self._fresh_s:
            return None
        hit = self._cache.recall_here(
            model=self._model,
            signature_digest=self._signature_digest,
            inputs=inputs,
            max_stale_s=self._fresh_s,
            withdrawn=self._withdrawn,
        )
        return None if hit is None or hit.version_digest != digest else _remembered(hit)

    async def recall(self, question: Question, *, max_stale_s: float) -> Remembered | None:
        """An answer that may be given when nothing better can be had."""
        left_s = question.deadline - self._clock.monotonic()
        return _remembered(
            await self._cache.recall(
                model=self._model,
                signature_digest=self._signature_digest,
                inputs=question.request.inputs,
                max_stale_s=max_stale_s,
                withdrawn=self._withdrawn,
                timeout_s=min(RECALL_MAX_S, max(left_s, 0.0)),
            )
        )


def _remembered(hit: Hit | None) -> Remembered | None:
    if hit is None:
        return None
    return Remembered(hit.outputs, hit.model, hit.version, hit.age_s, hit.tier)
