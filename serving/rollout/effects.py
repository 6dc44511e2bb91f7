"""Carries out what a rollout has decided: versions deployed and ended, the table brought to where the rollout stands.

Whatever is asked for here may be asked for again: what is done already changes nothing. Not here: when
(``serving.rollout.controller``), and what the table has to say (``serving.rollout.standing``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from fallbacks.stand_in import stand_in_fault
from models.errors import InvalidName, ModelError, VersionNotFound
from models.manifest import Manifest, ModelVersion
from models.registry import Registry
from serving.clock import Clock
from serving.errors import InvalidRequest, LoadFailed, ModelNotFound, RequestError, RolloutRefused
from serving.rollout.crashes import Crashes
from serving.rollout.desired import DesiredState
from serving.rollout.events import RollBackNow
from serving.rollout.spec import RolloutSpec
from serving.rollout.standing import arranged, standing, standings
from serving.rollout.state import Phase, RolloutState
from serving.rollout.versions import VersionControl, replaced_because, rolled_back_because
from serving.rollout.world import Look, Told
from serving.routing.collected import Asked, Collected, asked_to_json, collected_from_json
from serving.routing.table import RoutingTable
from serving.settings import Settings
from serving.shadow.compare import rule_fault, rule_of

log = logging.getLogger("holdfast.control")

START_AGAIN_S: Final = 1.0

Ask = Callable[[bytes], Awaitable[tuple[int, Sequence[bytes]]]]
"""Asks all gateways what they have counted: how many there are (0 if nobody knows), and what came in time."""

Watch = Callable[[ModelVersion, Callable[[Iterable[str]], None]], Callable[[], None]]
"""Calls back with the replicas of a version that live, now and at every change, until what is returned is called."""


class Watched(NamedTuple):
    crashes: Crashes
    stop: Callable[[], None]


class Effects:
    """The ``World`` of versions and tables."""

    def __init__(
        self,
        versions: VersionControl,
        *,
        registry: Registry,
        settings: Settings,
        clock: Clock,
        ask: Ask,
        watch: Watch,
    ) -> None:
        self._versions = versions
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._ask = ask
        self._watch = watch
        self._watched: dict[ModelVersion, Watched] = {}
        self._starting: asyncio.Task[None] | None = None
        self._blind = False

    def begin(self, desired: DesiredState | None) -> None:
        if self._starting is None or (self._blind and desired is not None):
            self._blind = desired is None
            self._starting = asyncio.get_running_loop().create_task(self._start(desired))

    async def _start(self, desired: DesiredState | None) -> None:
        where, marked = (standings(desired), desired.rolled_back) if desired is not None else ({}, None)
        while self._starting is asyncio.current_task():
            try:
                await self._versions.start(where, marked)
            except Exception:
                log.exception("what is to be served couldn't be found out; it is tried again")
                await asyncio.sleep(START_AGAIN_S)
            else:
                return

    def stable(self, model: str) -> str:
        route = self._versions.table.models.get(model)
        if route is None:
            raise RolloutRefused(
                f"model '{model}' isn't served, so there is nothing to roll out over: load a version of it first "
                f"(POST /v2/repository/models/{model}/load)"
            )
        return route.stable

    async def check(self, spec: RolloutSpec, prior: str) -> None:
        try:
            canary = await self._manifest(spec.model, spec.version)
        except (VersionNotFound, InvalidName):
            there = [
                name.version for name in await asyncio.to_thread(self._registry.versions) if name.model == spec.model
            ]
            known = ", ".join(there) or "none"
            raise InvalidRequest(f"version: the registry has no {spec}, of '{spec.model}' it has {known}") from None
        except (ModelError, OSError) as error:
            raise InvalidRequest(f"version: {spec} can't be used: {error}") from None
        try:
            stable = await self._manifest(spec.model, prior)
        except (ModelError, OSError) as error:
            raise RolloutRefused(f"{spec.model}@{prior} is the stable version, but can't be used: {error}") from None
        if (fault := stand_in_fault(stable.signature, canary.signature)) is not None:
            raise InvalidRequest(f"version: {spec} can't answer for {spec.model}@{prior}: {fault}")
        if spec.analysis.shadow is not None and (fault := rule_fault(rule_of(stable), stable.signature)):
            raise InvalidRequest(f"analysis.shadow: answers of '{spec.model}' can't be compared: {fault}")

    async def deploy(self, spec: RolloutSpec, prior: str) -> None:
        await self._versions.started(spec.model)
        await self.check(spec, prior)
        await self._versions.bring_up(ModelVersion(spec.model, spec.version))

    async def arrange(self, look: Look) -> Told:
        state = look()
        if not self._served(state):  # else nothing waits: one that never becomes ready must not hold up its rollback
            await self._versions.started(state.spec.model)
        withdrawn = await self._withdrawn(state)
        try:
            try:
                return await self._versions.change(lambda table: self._moved(table, look(), withdrawn))
            except ModelNotFound:
                if state.settled:
                    raise
                await self._versions.bring_up(ModelVersion(state.spec.model, standing(look()).stable))
                return await self._versions.change(lambda table: self._moved(table, look(), withdrawn))
        except (RequestError, ValueError) as error:
            raise LoadFailed(f"'{state.spec.model}' can't be served as {state.rollout} wants it: {error}") from None

    async def remove(self, look: Look, version: str) -> None:
        await self.arrange(look)
        state = look()
        name = ModelVersion(state.spec.model, version)
        if state.phase is Phase.ROLLED_BACK or not self._versions.called_for(name):
            replaced = state.phase is Phase.SUCCEEDED
            reason = replaced_because(state.spec.version) if replaced else f"ended with {state.rollout}"
            await self._versions.end(name, reason=reason)
        self._versions.stands(name.model, standing(state)._replace(settled=True))

    async def collect(self, asked: Asked) -> tuple[int, Sequence[Collected]]:
        gateways, raw = await self._ask(asked_to_json(asked))
        answers = []
        for answer in raw:
            try:
                answers.append(collected_from_json(answer))
            except ValueError as error:  # as from a gateway of another release: it doesn't report
                log.warning("a gateway's counts can't be read: %s", error)
        return gateways, answers

    def breakdown(self, spec: RolloutSpec) -> str:
        name = ModelVersion(spec.model, spec.version)
        if name not in self._watched:
            route = self._versions.table.models.get(spec.model)
            if route is None or spec.version not in route.versions:
                return ""  # it comes up, as after a start of Holdfast: Serve doesn't know it yet
            crashes = Crashes()
            self._watched[name] = Watched(
                crashes, self._watch(name, lambda replicas: crashes.seen(replicas, self._clock.monotonic()))
            )
        found = self._watched[name].crashes.breakdown(self._clock.monotonic())
        return f"{spec} {found}" if found else ""

    def forget(self, spec: RolloutSpec) -> None:
        if (watched := self._watched.pop(ModelVersion(spec.model, spec.version), None)) is not None:
            watched.stop()

    def _moved(self, table: RoutingTable, state: RolloutState, withdrawn: Mapping[str, str]) -> RoutingTable:
        """The table in which the model stands as its rollout says, and without a version that was taken back."""
        model, where = state.spec.model, standing(state)
        named = self._settings.model(model)
        self._versions.stands(model, where)
        if where.gives_way_to(named.stable_version if named is not None else None):
            return table
        table = arranged(table, model, where)
        back = state.open
        if not isinstance(back, RollBackNow):
            return table
        kept = not back.withdraw and self._versions.called_for(ModelVersion(model, back.version))
        if back.version in table.models[model].versions and not kept:
            reason = rolled_back_because(back.reason) if back.withdraw else f"{state.rollout} was aborted"
            table = table.without_version(model, back.version, reason=reason, withdraw=back.withdraw)
        return table.with_withdrawn(withdrawn)

    def _served(self, state: RolloutState) -> bool:
        route = self._versions.table.models.get(state.spec.model)
        return route is not None and route.versions.keys() >= set(standing(state).needed)

    async def _withdrawn(self, state: RolloutState) -> dict[str, str]:
        """What of the canary's answers is void: also if the table has forgotten it in a restart, by its digest."""
        back = state.open
        if not isinstance(back, RollBackNow) or not back.withdraw:
            return {}
        route = self._versions.table.models.get(state.spec.model)
        digest = route.versions.get(back.version) if route is not None else None
        if digest is None:
            try:
                manifest = await asyncio.to_thread(self._registry.manifest, state.spec.model, back.version)
            except (ModelError, OSError):
                return {}
            digest = manifest.digest
        return {digest: rolled_back_because(back.reason)}

    async def _manifest(self, model: str, version: str) -> Manifest:
        return await asyncio.to_thread(self._registry.verify, model, version)
