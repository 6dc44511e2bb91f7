"""Carries out what is decided and not yet known to be done, one thing at a time for each rollout.

What a later decision has overtaken is given up. What fails in a way that nobody foresaw is tried again. Not here: what
the effects do (``serving.rollout.effects``), and which they are (``serving.rollout.decide``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from serving.clock import Clock
from serving.errors import LoadFailed, RequestError
from serving.log_lines import fields
from serving.rollout.desired import Entry, undone
from serving.rollout.event_log import LogError
from serving.rollout.events import (
    DeployVersion,
    Effect,
    Event,
    Finish,
    PublishPromotion,
    RollBackNow,
    SetWeight,
    VersionFailed,
    VersionGone,
    VersionReady,
    WeightApplied,
)
from serving.rollout.journal import Journal
from serving.rollout.state import IllegalMove, Phase, RolloutState
from serving.rollout.world import World

log = logging.getLogger("holdfast.control")

_WAITS_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between tries. The last one is repeated."""


class _Doing(NamedTuple):
    effect: int
    task: asyncio.Task[None]


class Doer:
    """Does what one journal says."""

    def __init__(self, journal: Journal, world: World, clock: Clock) -> None:
        self._journal = journal
        self._world = world
        self._clock = clock
        self._doing: dict[str, _Doing] = {}

    def begin(self) -> None:
        """Bring every model to where its last rollout stands, also where nothing is undone: Holdfast may have ended."""
        for state in self._journal.desired.rollouts.values():
            if state.open is None:
                self._do(state.rollout, 0, self._settle(state.rollout))
        self.carry_out()

    def carry_out(self) -> None:
        """Begin what is undone and not begun. To be called whenever something may have been decided."""
        for rollout, effect in undone(self._journal.desired):
            doing = self._doing.get(rollout)
            if doing is None or doing.effect < effect.id or self._forgiven(rollout, doing):
                self._do(rollout, effect.id, self._carry_out(rollout, effect))

    def _forgiven(self, rollout: str, doing: _Doing) -> bool:
        """Whether what couldn't be done is to be tried again: a person has resumed in spite of the failure."""
        return doing.task.done() and not self._state(rollout).failure

    def stop(self) -> None:
        for doing in self._doing.values():
            doing.task.cancel()
        self._doing.clear()

    def _do(self, rollout: str, effect: int, work: Coroutine[Any, Any, None]) -> None:
        if (before := self._doing.get(rollout)) is not None:
            before.task.cancel()
        self._doing[rollout] = _Doing(effect, asyncio.ensure_future(work))

    async def _carry_out(self, rollout: str, effect: Effect) -> None:
        tried = 0
        while True:
            try:
                if await self._done(rollout, effect):
                    return
            except LogError:
                return  # the journal has ended, and says so
            except Exception:
                name = type(effect).__name__
                log.exception("%s of %s failed; it is tried again", name, rollout, extra=fields(rollout=rollout))
            await asyncio.sleep(_wait_s(tried))
            tried += 1

    async def _done(self, rollout: str, effect: Effect) -> bool:
        """Try to carry out an effect, and tell how it went; whether there is nothing left to do."""
        match effect:
            case DeployVersion():
                await self._deploy(rollout, effect)
            case Finish(remove=version):
                await self._world.remove(lambda: self._state(rollout), version)
                await self._hear(rollout, VersionGone(at=self._clock.wall(), effect=effect.id, version=version))
            case _:
                return await self._publish(rollout, effect)
        return True

    async def _deploy(self, rollout: str, effect: DeployVersion) -> None:
        state = self._state(rollout)
        answer: Event
        try:
            await self._world.deploy(state.spec, state.prior)
        except RequestError as error:
            answer = VersionFailed(at=self._clock.wall(), reason=error.message, effect=effect.id)
        else:
            answer = VersionReady(at=self._clock.wall(), effect=effect.id)
        await self._hear(rollout, answer)

    async def _publish(self, rollout: str, effect: SetWeight | PublishPromotion | RollBackNow) -> bool:
        try:
            told = await self._world.arrange(lambda: self._state(rollout))
        except LoadFailed as error:
            if isinstance(effect, RollBackNow):
                raise  # nothing else can be done
            if not self._state(rollout).failure:
                await self._hear(rollout, VersionFailed(at=self._clock.wall(), reason=error.message))
            return not self._waits_for_nobody(rollout, effect)
        if not told.all:
            return False
        applied = WeightApplied(
            at=self._clock.wall(),
            effect=effect.id,
            generation=told.generation,
            weight=_weight_of(effect),
            acknowledged=told.acknowledged,
            gateways=told.gateways,
        )
        await self._hear(rollout, applied)
        return True

    def _waits_for_nobody(self, rollout: str, effect: Effect) -> bool:
        """Whether an effect that has failed is still to be done: a promotion knows no pause, so nobody could resume it.

        It pauses when it is baking, if what failed speaks against the canary and shall not take it back.
        """
        state = self._state(rollout)
        return state.phase is Phase.PROMOTING and state.open == effect

    async def _settle(self, rollout: str) -> None:
        tried = 0
        while True:
            try:
                if (await self._world.arrange(lambda: self._state(rollout))).all:
                    return
            except LoadFailed as error:
                await self._cant_settle(rollout, error)
                return
            except Exception:
                text = "what %s has come to couldn't be published; it is tried again"
                log.exception(text, rollout, extra=fields(rollout=rollout))
            await asyncio.sleep(_wait_s(tried))
            tried += 1

    async def _cant_settle(self, rollout: str, error: LoadFailed) -> None:
        state = self._journal.desired.find(rollout)
        if state is None:
            return  # a later one has taken its place
        log.error("%s: %s", rollout, error.message, extra=fields(rollout=rollout))
        if not state.over:
            with contextlib.suppress(LogError):
                await self._hear(rollout, VersionFailed(at=self._clock.wall(), reason=error.message))

    async def _hear(self, rollout: str, event: Event) -> None:
        with contextlib.suppress(IllegalMove):  # it came too late to say anything
            await self._journal.hear(Entry(rollout, event))
        self.carry_out()

    def _state(self, rollout: str) -> RolloutState:
        state = self._journal.desired.find(rollout)
        if state is None:  # a later one has taken its place, so everything of it was done
            raise LoadFailed(f"{rollout} is over")
        return state


def _weight_of(effect: SetWeight | PublishPromotion | RollBackNow) -> int:
    """The percent that ``WeightApplied`` has to name."""
    if isinstance(effect, SetWeight):
        return effect.weight
    return 100 if isinstance(effect, PublishPromotion) else 0


def _wait_s(tried: int) -> float:
    return _WAITS_S[min(tried, len(_WAITS_S) - 1)]
