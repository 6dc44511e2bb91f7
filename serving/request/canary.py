"""A request of a model with a canary: thrown once, and asked of the canary in such a way that stable can still answer.

Not here: the lot itself (``serving.routing.split``), what counts as bad (``serving.request.trial``), and asking the
stable version (``serving.request.pipeline``).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from models.inference import Tensors
from serving.clock import Clock
from serving.errors import CallerError, RequestError
from serving.request.attempts import Attempts, Exchange
from serving.request.trial import Trial
from serving.routing.outcomes import Ledger
from serving.routing.split import Coin
from serving.routing.table import Split

CANARY_SHARE: Final = 0.5
"""Of the time that a request has left, all attempts at the canary together: as much as the first attempt at the stable
version has by default. A canary that hangs costs its caller that time, and no more."""


class Throws:
    """What one routing table says of a model's canary. A later table has another one, with the same ``ledger``."""

    __slots__ = (
        "_attempts",
        "_canary",
        "_coin",
        "_generation",
        "_ledger",
        "_monotonic",
        "_slow_s",
        "_stable",
        "_sticky",
    )

    def __init__(
        self,
        split: Split,
        attempts: Attempts,
        ledger: Ledger,
        *,
        generation: int,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._attempts = attempts
        self._ledger = ledger
        self._generation = generation
        self._coin = Coin(split, random=random)
        self._sticky = split.stickiness == "key"
        self._canary, self._stable = ledger.at(split.weight)
        self._slow_s = inf if split.objective_s is None else split.objective_s
        self._monotonic = clock.monotonic

    async def ask(self, exchange: Exchange) -> Tensors | None:
        """The canary's outputs, or None: the stable version shall be asked, because of the lot or of a failure.

        Raises ``CallerError`` if the request itself is wrong.
        """
        now = exchange.since
        half_s = CANARY_SHARE * (exchange.deadline - now)
        if half_s <= 0.0 or self._ledger.taken_back_by > self._generation:
            return None
        key = exchange.sticky_key if self._sticky else None
        canary = self._coin.canary(key)
        variant = self._canary if canary else self._stable
        exchange.trial = Trial(self._ledger, variant, key, began=now, within_s=half_s, slow_s=self._slow_s)
        if not canary:
            return None
        exchange.until, exchange.shared = now + half_s, False
        try:
            return await self._attempts.answer(exchange)
        except CallerError:
            raise
        except RequestError:
            exchange.start_again(self._monotonic())
            return None
