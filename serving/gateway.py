"""One gateway: the lanes of all served versions, swapped when the routing table changes.

Not here: HTTP (``serving.ingress``), Ray (``serving.deployments``), who decides what is served (the control plane).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from uuid import uuid4

from msgspec.structs import replace

from models.manifest import Manifest
from serving.cache.tiers import PredictionCache
from serving.canaries import Canaries
from serving.clock import Clock
from serving.errors import ModelNotFound, ReplicaUnavailable, RequestError
from serving.model_settings import ModelSettings
from serving.plans import Planner
from serving.request.admission import Admission
from serving.request.deadline import Deadlines
from serving.request.pipeline import Canary, Plan
from serving.routing.collected import Asked, Collected
from serving.routing.outcomes import SplitOutcomes
from serving.routing.table import EMPTY, ModelRoute, RoutingTable, Split, loaded
from serving.settings import Settings
from serving.shadow.mirror import Mirror
from serving.shadow.mirrors import Mirrors
from serving.version import Link, ReadManifest, Version, VersionBuilder

log = logging.getLogger("holdfast.gateway")

_Wanted = tuple[str, str, str]
"""A model, a version and its digest."""


class Gateway:
    """Routes calls to versions. ``take`` is the only thing that changes it, and ``apply``, which waits for its end.

    ``name`` tells it from others, and from itself before it was started anew; ``system`` is the mark of the Holdfast
    that it is one of.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        read_manifest: ReadManifest,
        clock: Clock,
        cache: PredictionCache | None = None,
        random: Callable[[], float] = random.random,
        name: str | None = None,
        system: str = "",
    ) -> None:
        self.system = system
        self._settings = settings
        self._read_manifest = read_manifest
        deadlines = Deadlines(clock)
        self._builder = VersionBuilder(
            settings, link=link, read_manifest=read_manifest, clock=clock, deadlines=deadlines, random=random
        )
        self.planner = Planner(
            clock=clock,
            deadlines=deadlines,
            find=self._find,
            withdrawn=lambda digest: digest in self._table.withdrawn,
            cache=cache,
        )
        self.mirrors = Mirrors(find=self._find, clock=clock, random=random)
        self._plans: dict[tuple[str, str | None], Plan] = {}
        self._canaries = Canaries(name or uuid4().hex, clock=clock, random=random)
        self._newest: RoutingTable | None = None
        """The newest table that was applied."""
        self._table = EMPTY
        """That table, as far as it is in force: see ``_in_force``."""
        self._versions: dict[tuple[str, str], Version] = {}
        self._unserved: dict[str, Manifest] = {}
        self._building: dict[_Wanted, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._served_once = False
        self._closed = False
        self.draining = False

    # Routing

    def route(self, model: str, version: str | None) -> Plan:
        """Raises ``ModelNotFound``, and ``ReplicaUnavailable`` if what is asked for is still to come."""
        plan = self._plans.get((model, version))
        if plan is None:
            raise self._missing(model, version)
        return plan

    def _find(self, model: str, version: str | None) -> Version | None:
        route = self._table.models.get(model)
        return None if route is None else self._versions.get((model, version or route.stable))

    def version(self, model: str, version: str | None = None) -> Version:
        """The served version that answers for ``model``; raises what ``route`` raises."""
        found = self._find(model, version)
        if found is None:
            raise self._missing(model, version)
        return found

    def _missing(self, model: str, version: str | None) -> RequestError:
        """Why nothing answers for it here. What is going to, it is worth coming again for."""
        newest = self._newest
        if newest is None:
            return ReplicaUnavailable("this gateway doesn't know yet what is served")
        try:
            name = newest.resolve(model, version)
        except ModelNotFound as error:
            wished = f"model '{model}'" if version is None else f"model '{model}' version '{version}'"
            return ReplicaUnavailable(f"{wished} isn't up yet") if newest.comes(model, version) else error
        return ReplicaUnavailable(f"model '{model}' version '{name}' isn't up here yet")

    def settings_of(self, model: str) -> ModelSettings:
        """How a model is served; one that the settings don't name, with the defaults."""
        return self._settings.model(model) or ModelSettings(name=model, versions=("any",))

    @property
    def faults_allowed(self) -> bool:
        """Whether replicas may be told to fail on purpose."""
        return self._settings.faults

    @property
    def table(self) -> RoutingTable:
        return self._table

    @property
    def versions(self) -> list[Version]:
        return list(self._versions.values())

    @property
    def ready(self) -> bool:
        """Whether any model can answer. With no model at all it is False."""
        stable = (self._versions.get((name, route.stable)) for name, route in self._table.models.items())
        return not self.draining and any(version is not None and version.lane.ready for version in stable)

    @property
    def accepting(self) -> bool:
        """Whether HAProxy should send requests here: all of a table has been in force, and we aren't leaving.

        A table that only says what is coming is none yet.
        """
        return self._served_once and not self.draining

    def split_of(self, model: str) -> Split | None:
        """The split that the model's requests are thrown by now, None if all go to the stable version."""
        route, plan = self._table.models.get(model), self._plans.get((model, None))
        if route is None or plan is None or plan.canary is None:
            return None
        return route.split

    @property
    def canary_weights(self) -> dict[str, float]:
        """The shares of the requests that canaries get from here, by model."""
        return {name: split.weight for name in self._table.models if (split := self.split_of(name)) is not None}

    def close_breaker(self, model: str, version: str) -> bool | None:
        """A person closes it: whether it wasn't closed already, None if the version isn't served here."""
        found = self._versions.get((model, version))
        if found is None:
            return None
        breaker = found.served.attempts.breaker
        if breaker.state == "closed":
            return False
        breaker.reset()
        return True

    def collect_outcomes(self, model: str, *, keys_from: int = 0) -> SplitOutcomes | None:
        """What was counted here of the model's latest rollout since it began; None if there was none.

        Of the bad keys, those from this number on: ``next_key`` of the collection before. Counts stay when the split
        has ended, until another one begins.
        """
        return self._canaries.outcomes(model, self._table, self.split_of(model), keys_from=keys_from)

    def rollout_outcomes(self, asked: Asked) -> Collected:
        """What was counted here of the models that are asked for: of their latest rollouts, and by their mirrors."""
        found = [
            self.collect_outcomes(model, keys_from=keys_from.get(self._canaries.name, 0))
            for model, keys_from in asked.keys_from.items()
        ]
        return Collected(
            gateway=self._canaries.name,
            started=self._canaries.started,
            generation=self._table.generation,
            outcomes=tuple([outcomes for outcomes in found if outcomes is not None]),
            mirrors=tuple([counts for counts in self.mirrors.counts() if counts.model in asked.keys_from]),
        )

    @property
    def models_with_outcomes(self) -> list[str]:
        """Models that have had a canary since they are served here."""
        return self._canaries.models

    # Change

    async def apply(self, table: RoutingTable) -> int:
        """``take`` the table; returns the generation in force once all of it is, or of a newer one."""
        self.take(table)
        while under_way := [task for task in self._building.values() if not task.done()]:
            await asyncio.wait(under_way)
        self._note_served()
        return self._generation

    def take(self, table: RoutingTable) -> None:
        """Serve by this table from now on, if it is newer.

        What is served here already is routed by it at once: nothing that is taken back waits for what another table
        brings. What it brings is built beside and joins when it is linked and, within a bound, ready. A version that
        can't be linked keeps nothing back: it is left out, and tried again when the same table comes again.
        """
        if self._closed:
            return
        if self._newest is None or table.generation > self._newest.generation:
            self._route_by(table)
        if table.generation == self._generation:
            self._bring()
        self._note_served()

    def _note_served(self) -> None:
        table = self._newest or EMPTY
        self._served_once |= not self._building and bool(table.models or not table.coming)

    async def close(self) -> None:
        """Give up every lane and connection."""
        self._closed = True
        self.mirrors.close()
        for task in self._building.values():
            task.cancel()
        versions, self._versions, self._table, self._plans = self.versions, {}, EMPTY, {}
        await asyncio.gather(*map(self._builder.end, versions))
        if ending := [*self._building.values(), *self._ending]:
            await asyncio.wait(ending)

    @property
    def _generation(self) -> int:
        return 0 if self._newest is None else self._newest.generation

    def _route_by(self, table: RoutingTable) -> None:
        """Route by this table, and give up building what it doesn't want."""
        self._canaries.take_back(table, since=self._table.generation)
        for found in self._versions.values():
            if found.served.version == self._table.models[found.served.model].stable:
                self._unserved[found.served.model] = found.manifest
        self._newest = table
        wanted = self._wanted(table)
        for key in [key for key in self._building if key not in wanted]:
            task = self._building.pop(key)
            task.cancel()
            self._until_ended(task)
        self._put_in_force()

    def _wanted(self, table: RoutingTable) -> set[_Wanted]:
        """What has to be built or read for this table if it isn't there."""
        versions = {(*name, digest) for name, digest in loaded(table).items()}
        return versions | {(model.name, "", "") for model in self._settings.models if _only_falls_back(model, table)}

    def _bring(self) -> None:
        """Begin to build what the newest table wants and isn't built here, nor being built."""
        for wanted in self._wanted(self._newest or EMPTY) - self._building.keys():
            model, version, digest = wanted
            if not version and model not in self._unserved:
                work = self._read_unserved(model)
            elif version and not self._serves((model, version), digest):
                work = self._build(model, version, digest)
            else:
                continue
            task = self._building[wanted] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(partial(self._built, wanted))

    def _built(self, wanted: _Wanted, task: asyncio.Task[None]) -> None:
        if self._building.get(wanted) is task:
            del self._building[wanted]
            self._note_served()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the routing table couldn't be put in force", exc_info=error)

    async def _build(self, model: str, version: str, digest: str) -> None:
        try:
            built = await self._builder.build(model, version, digest, self.settings_of(model))
        except Exception:
            log.exception("%s@%s can't be served by this gateway", model, version)
            return
        old = self._versions.get((model, version))
        self._versions[model, version] = built
        if old is not None:
            self._retire(old)
        self._put_in_force()

    async def _read_unserved(self, model: str) -> None:
        """The manifest of a model that has a fallback chain, but no version in the table.

        Without one, nobody could say what a request for such a model has to look like.
        """
        version = self.settings_of(model).stable_version
        try:
            self._unserved[model] = await asyncio.to_thread(self._read_manifest, model, version)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it: the others are served
            log.error("%s isn't served, and its manifest can't be read: %s", model, error)
            return
        self._put_in_force()

    def _put_in_force(self) -> None:
        """Route by the newest table what is built here, and let go of what isn't routed to any more."""
        if self._newest is None:
            return
        self._table = replace(
            self._newest, models={name: self._in_force(name, route) for name, route in self._newest.models.items()}
        )
        routed = loaded(self._table)
        gone = [found for name, found in self._versions.items() if found.digest != routed.get(name)]
        self._versions = {name: self._versions[name] for name, digest in routed.items() if self._serves(name, digest)}
        self._canaries.keep(self._table.models)
        self._plans = self._planned()
        self._count_who_waits()
        for version in gone:
            self._retire(version)
        names = ", ".join(found.served.name for found in self._versions.values())
        log.info("serving by routing table %d: %s", self._table.generation, names)

    def _in_force(self, model: str, route: ModelRoute) -> ModelRoute:
        """The model's route as it can be now.

        As long as its new stable version isn't there, the one that was stable goes on answering, also if the table
        doesn't have it any more, unless it is withdrawn. Nothing else that the table doesn't have gets a request.
        """
        old = self._table.models.get(model)
        if old is None or self._serves((model, route.stable), route.versions[route.stable]):
            return route
        stable = self._versions.get((model, old.stable))
        if stable is None or self._newest is None or stable.digest in self._newest.withdrawn:
            return route
        mirror = None if route.mirror is None or route.mirror.version == old.stable else route.mirror
        return ModelRoute(old.stable, {**route.versions, old.stable: stable.digest}, mirror)

    def _retire(self, version: Version) -> None:
        self._until_ended(asyncio.get_running_loop().create_task(self._builder.retire(version)))

    def _until_ended(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _planned(self) -> dict[tuple[str, str | None], Plan]:
        """How every call that can be answered is answered."""
        plans: dict[tuple[str, str | None], Plan] = {}
        mirroring: set[Mirror] = set()
        for settings in self._settings.models:
            manifest = self._unserved.get(settings.name)
            if manifest is None or not settings.fallback or self._any_here(settings.name):
                continue
            plans[settings.name, None] = self.planner.of_model(settings, manifest).plan(None, settings.stable_version)
        for name, route in self._table.models.items():
            loaded_here = {key: found for key in route.versions if (found := self._versions.get((name, key)))}
            if not loaded_here:
                continue
            stable = loaded_here.get(route.stable)
            spoken = (stable or next(iter(loaded_here.values()))).manifest
            model = self.planner.of_model(self.settings_of(name), spoken)
            if stable is not None or model.chain:
                canary = None if stable is None else self._canary(name, route, stable, loaded_here)
                mirrors = self.mirrors.of_model(model.settings, route, spoken)
                plan = model.plan(None if stable is None else stable.served, route.stable, canary)
                plans[name, None] = plan._replace(mirrors=mirrors)
                mirroring.update(mirrors)
            for version, found in loaded_here.items():
                quality = self.planner.gate(model.settings, found.manifest)
                plans[name, version] = model.pinned(found.served, found.decoder, quality)
        self.mirrors.stop_all_but(mirroring)
        return plans

    def _canary(
        self, model: str, route: ModelRoute, stable: Version, loaded_here: Mapping[str, Version]
    ) -> Canary | None:
        split = route.split
        if split is None:
            return None
        asked = loaded_here.get(split.version)
        return self._canaries.canary(model, split, stable=stable, canary=asked, generation=self._table.generation)

    def _count_who_waits(self) -> None:
        """Requests that wait to be let in will be the stable version's or the canary's: their replicas shall know."""
        for (name, version), found in self._versions.items():
            plan, split = self._plans.get((name, None)), self.split_of(name)
            found.lane.waiting_elsewhere = int
            if plan is None or plan.served is None:
                continue
            weight = 0.0 if split is None else split.weight
            if version == plan.served.version:
                found.lane.waiting_elsewhere = waiting_at(plan.admission, 1.0 - weight)
            elif split is not None and version == split.version:
                found.lane.waiting_elsewhere = waiting_at(plan.admission, weight)

    def _any_here(self, model: str) -> bool:
        return any(name == model for name, _ in self._versions)

    def _serves(self, name: tuple[str, str], digest: str | None) -> bool:
        version = self._versions.get(name)
        return version is not None and version.digest == digest


def _only_falls_back(model: ModelSettings, table: RoutingTable) -> bool:
    """Whether the table has no version of a model that has a fallback chain."""
    return bool(model.fallback) and model.name not in table.models


def waiting_at(admission: Admission, share: float) -> Callable[[], int]:
    """This share of those who wait to be let in."""
    return lambda: round(share * sum(admission.waiting.values()))
