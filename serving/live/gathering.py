"""Puts a snapshot together: asks whom there is to ask, and hands the answers to what adds, judges and compares.

A thin shell: nothing is decided here. Not here: when that happens, and who gets it (``serving.live.hub``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from serving.clock import Clock
from serving.live import merge
from serving.live.events import happened, newest
from serving.live.heard import Heard
from serving.live.history import History
from serving.live.snapshot import (
    EVENTS_MAX,
    Admin,
    Holdfast,
    Incidents,
    LiveEvent,
    ModelView,
    Snapshot,
    VersionView,
)
from serving.live.verdict import judge
from serving.rollout.report import Overview, RolloutReport

MERGED_AT_ONCE: Final = 5
"""Seconds of the series; a millisecond or two with ten models that are busy."""

Versions = Mapping[tuple[str, str], int]
"""How many, of each version."""


class Gateways(Protocol):
    """The node's other gateways."""

    async def ask(self) -> Sequence[Heard]: ...


class Control(Protocol):
    """The control plane."""

    async def look(self) -> Overview: ...


class Gathering:
    """Makes snapshots.

    ``own`` tells of this gateway, ``golden`` counts failed self-tests of replicas by version, ``kept``
    tells of incidents.
    """

    def __init__(
        self,
        *,
        own: Callable[[], Heard],
        siblings: Gateways,
        control: Control,
        golden: Callable[[], Awaitable[Versions]],
        kept: Callable[[], Awaitable[Incidents]],
        history: History,
        expected: int,
        wanted: Mapping[str, int],
        admin: Admin,
        version: str,
        pid: int,
        clock: Clock,
    ) -> None:
        self._own = own
        self._siblings = siblings
        self._control = control
        self._golden = golden
        self._kept = kept
        self._history = history
        self._expected = expected
        self._wanted = wanted
        self._admin = admin
        self._version = version
        self._pid = pid
        self._clock = clock
        self._started = clock.monotonic()
        self._before: Snapshot | None = None
        self._events: deque[LiveEvent] = deque(maxlen=EVENTS_MAX)

    async def gather(self) -> Snapshot:
        """How all stands now, without the series."""
        siblings, control, golden, kept = await asyncio.gather(
            self._siblings.ask(), self._control.look(), self._golden(), self._kept()
        )
        heard = [self._own(), *siblings]
        self._history.hear([each.page for each in heard], now=self._clock.wall())
        await self._merge()
        rollouts = {rollout.model: rollout for rollout in control.rollouts}
        now = Snapshot(
            time=round(self._clock.wall(), 3),
            holdfast=Holdfast(self._version, self._pid, round(self._clock.monotonic() - self._started, 1)),
            gateways=merge.gateways(heard, expected=self._expected),
            controller=control.controller,
            admin=self._admin,
            models=tuple(self._filled(model, rollouts, golden) for model in merge.models(heard)),
            rolled_back=control.rolled_back,
            incidents=kept,
        )
        now = replace(now, verdict=judge(now))
        self._events.extend(happened(self._before, now))
        self._before = now = replace(now, events=newest(self._events, now))
        return now

    async def _merge(self) -> None:
        """In turns with requests: who looks for the first time must not keep them waiting."""
        more = True
        while more:
            more = self._history.merge(most=MERGED_AT_ONCE)
            await asyncio.sleep(0)

    @property
    def last(self) -> int:
        """The newest second of the series."""
        return self._history.last

    def with_series(self, snapshot: Snapshot, *, after: int = 0) -> Snapshot:
        """The latest snapshot with the seconds after this one."""
        models = (replace(each, series=self._history.series(each.name, after=after)) for each in snapshot.models)
        return replace(snapshot, models=tuple(models))

    def _filled(self, model: ModelView, rollouts: Mapping[str, RolloutReport], golden: Versions) -> ModelView:
        recent = self._history.recent(model.name)
        return replace(
            model,
            **recent.rates._asdict(),
            rate=round(sum(recent.rates), 3),
            p50_ms=recent.p50_ms,
            p99_ms=recent.p99_ms,
            degraded_by_reason=recent.degraded_by_reason,
            errors_by_reason=recent.errors_by_reason,
            versions=tuple(self._checked(model.name, version, golden) for version in model.versions),
            rollout=rollouts.get(model.name),
        )

    def _checked(self, model: str, version: VersionView, golden: Versions) -> VersionView:
        failed = golden.get((model, version.version), 0)
        wanted = 0 if version.role == "unavailable" else self._wanted.get(model, 0)
        return replace(version, golden_failed=failed, wanted=wanted)
