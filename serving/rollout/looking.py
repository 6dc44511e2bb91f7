"""Looks at every rollout that goes on, a few times a second, and has written down what there is to see.

Not here: what the numbers mean (``serving.rollout.evidence``), and which of them are new
(``serving.rollout.collector``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from serving.clock import Clock
from serving.rollout.apply import apply
from serving.rollout.collector import Collector
from serving.rollout.decide import decide
from serving.rollout.desired import Entry
from serving.rollout.event_log import LogError
from serving.rollout.events import ClockTick, Event, Observed, VersionFailed
from serving.rollout.journal import Journal
from serving.rollout.spec import RolloutSpec
from serving.rollout.state import IllegalMove, Phase, RolloutState
from serving.rollout.world import World
from serving.routing.collected import Asked, Collected

log = logging.getLogger("holdfast.control")

LOOK_S: Final = 0.25
QUIET_S: Final = 5.0
"""At least so often something is written down of a rollout that goes on: time that nobody watched doesn't count."""

IDLE_S: Final = 2.0
"""Without a rollout, so often it is found out whether another controller writes."""

_SERVING: Final = frozenset({Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING, Phase.BAKING})


@dataclass
class _Watched:
    """What is remembered of a rollout between two looks. Times in monotonic seconds."""

    spec: RolloutSpec
    collector: Collector
    looked_at: float
    written_at: float
    failure: str = ""


class Looker:
    """Looks for one journal. ``decided`` is called whenever something may have been decided."""

    def __init__(self, journal: Journal, world: World, clock: Clock, *, decided: Callable[[], None]) -> None:
        self._journal = journal
        self._world = world
        self._clock = clock
        self._decided = decided
        self._watched: dict[str, _Watched] = {}
        self._idle_at = clock.monotonic()

    async def run(self) -> None:
        """Until the journal has ended."""
        while not self._journal.ended.done():
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except LogError:
                return
            except Exception:
                log.exception("the rollouts couldn't be looked at")
                await asyncio.sleep(1.0)

    async def _look(self) -> None:
        active = {state.rollout: state for state in self._journal.desired.rollouts.values() if not state.over}
        for rollout in self._watched.keys() - active.keys():
            self._forget(rollout)
        if self._journal.wants_snapshot or not active:
            await self._journal.keep_snapshot()
        if not active:
            await self._idle()
            return
        at = self._clock.wall()
        watched = [(state, self._watched_of(state)) for state in active.values()]
        asked = Asked({state.spec.model: one.collector.keys_from() for state, one in watched})
        gateways, answers = await self._collected(asked)
        for state, one in watched:
            for event in self._events(state, one, at, gateways, answers):
                one.written_at = self._clock.monotonic()
                with contextlib.suppress(IllegalMove):  # the rollout has come to its end meanwhile
                    await self._journal.hear(Entry(state.rollout, event))
                self._decided()

    async def _idle(self) -> None:
        now = self._clock.monotonic()
        if now - self._idle_at >= IDLE_S:
            self._idle_at = now
            await self._journal.still_writes()

    async def _collected(self, asked: Asked) -> tuple[int, Sequence[Collected]]:
        try:
            return await self._world.collect(asked)
        except Exception:
            log.exception("the gateways couldn't be asked what they have counted")
            return 0, ()

    def _events(
        self, state: RolloutState, watched: _Watched, at: float, gateways: int, answers: Sequence[Collected]
    ) -> list[Event]:
        """What is worth writing down of one rollout now."""
        now = self._clock.monotonic()
        passed_s, watched.looked_at = now - watched.looked_at, now
        events: list[Event] = []
        broken = self._broken(state, watched)
        if state.step >= 0 and state.phase in _SERVING:
            windows = watched.collector.taken(
                answers, gateways=gateways, at=at, seconds=passed_s, weight=state.weight / 100
            )
            events += [Observed(at=at, observation=one.observation, cursor=one.cursor) for one in windows]
        if broken:
            events.append(VersionFailed(at=at, reason=broken))
        tick = ClockTick(at=at)
        if not events and (now - watched.written_at >= QUIET_S or decide(apply(state, tick))):
            events.append(tick)
        return events

    def _broken(self, state: RolloutState, watched: _Watched) -> str:
        """Why the version can be ready no more, if that is news. What a person has forgiven must arise anew."""
        if watched.failure and not state.failure:
            self._world.forget(state.spec)
        watched.failure = state.failure
        return self._world.breakdown(state.spec) if state.phase in _SERVING and not state.failure else ""

    def _watched_of(self, state: RolloutState) -> _Watched:
        watched = self._watched.get(state.rollout)
        if watched is None:
            now = self._clock.monotonic()
            collector = Collector(
                state.rollout, state.spec.model, state.spec.version, state.cursor, since=state.started_at
            )
            watched = self._watched[state.rollout] = _Watched(state.spec, collector, looked_at=now, written_at=now)
        return watched

    def _forget(self, rollout: str) -> None:
        self._world.forget(self._watched.pop(rollout).spec)
