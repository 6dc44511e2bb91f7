"""One gateway: the lanes of all served versions, swapped when the routing table changes.

Not here: HTTP (``serving.ingress``), Ray (``serving.deployments``), who decides what is served (the control plane).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol
from uuid import uuid4

from models.manifest import Manifest
from serving.cache.tiers import PredictionCache
from serving.canaries import Canaries
from serving.channel.address import Address
from serving.channel.handle import HandleClient
from serving.channel.membership import ChannelLimits, Membership
from serving.channel.watchers import ReplicaProcess
from serving.clock import Clock
from serving.errors import ModelNotFound
from serving.model_settings import ModelSettings
from serving.plans import Planner
from serving.protocol.decode import RequestDecoder
from serving.request.admission import Admission
from serving.request.attempts import Attempts, retry_limits
from serving.request.breaker import Breaker, breaker_limits
from serving.request.budget import RetryBudget
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.lane import Lane, LaneLimits
from serving.request.outlier import ejection_limits
from serving.request.pipeline import Canary, Plan, ServedVersion
from serving.routing.collected import Asked, Collected
from serving.routing.outcomes import SplitOutcomes
from serving.routing.table import EMPTY, ModelRoute, RoutingTable, Split, loaded
from serving.settings import Settings
from serving.shadow.mirror import Mirror
from serving.shadow.mirrors import Mirrors

log = logging.getLogger("holdfast.gateway")

READY_WAIT_S = 5.0
"""How long a new table waits for the first live replica of a version it brings."""


class VersionLink(Protocol):
    """What Ray Serve knows of one version: its replicas as they come and go, and a call through its handle."""

    async def call(self, frame: bytes) -> bytes:
        """Send a frame to any replica and return its answer frame; raises a ``RequestError``."""
        ...

    def watch(self, on_replicas: Callable[[Mapping[str, Address]], None]) -> None:
        """Call ``on_replicas``, on the running loop, with all live replicas now and at every change."""
        ...

    def available(self) -> bool:
        """Whether Serve lists any live replica."""
        ...

    def processes(self) -> Mapping[str, ReplicaProcess]:
        """By id, where every replica runs that Serve lists; nobody is asked."""
        ...

    async def tell_all(self, method: str, raw: bytes, *, within_s: float) -> list[bytes]:
        """Call a method of every replica; the answers of those that gave one in time."""
        ...

    def close(self) -> None: ...


Link = Callable[[str, str], Awaitable[VersionLink]]
ReadManifest = Callable[[str, str], Manifest]


class Version(NamedTuple):
    """A served version with everything that belongs to it."""

    served: ServedVersion
    manifest: Manifest
    decoder: RequestDecoder
    lane: Lane
    membership: Membership
    link: VersionLink
    digest: str
    timeout_s: float


class Gateway:
    """Routes calls to versions. ``apply`` is the only thing that changes it.

    ``name`` tells it from others, and from itself before it was started anew.
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
    ) -> None:
        self._settings = settings
        self._link = link
        self._read_manifest = read_manifest
        self._clock = clock
        self._random = random
        self._deadlines = Deadlines(clock)
        self.planner = Planner(
            clock=clock,
            deadlines=self._deadlines,
            find=self._find,
            withdrawn=lambda digest: digest in self._table.withdrawn,
            cache=cache,
        )
        self.mirrors = Mirrors(find=self._find, clock=clock, random=random)
        self._plans: dict[tuple[str, str | None], Plan] = {}
        self._canaries = Canaries(name or uuid4().hex, clock=clock, random=random)
        self._table = EMPTY
        self._versions: dict[tuple[str, str], Version] = {}
        self._applying = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._has_table = False
        self.draining = False

    # Routing

    def route(self, model: str, version: str | None) -> Plan:
        """Raises ``ModelNotFound``."""
        plan = self._plans.get((model, version))
        if plan is None:
            self.version(model, version)  # says what it is that isn't there
            raise ModelNotFound(f"model '{model}' isn't served here")
        return plan

    def _find(self, model: str, version: str | None) -> Version | None:
        route = self._table.models.get(model)
        return None if route is None else self._versions.get((model, version or route.stable))

    def version(self, model: str, version: str | None = None) -> Version:
        """The served version that answers for ``model``; raises ``ModelNotFound``."""
        name = self._table.resolve(model, version)
        found = self._versions.get((model, name))
        if found is None:  # the table only names what `apply` has built
            raise ModelNotFound(f"model '{model}' version '{name}' isn't loaded here")
        return found

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
        """Whether HAProxy should send requests here: there is a table, and we aren't leaving."""
        return self._has_table and not self.draining

    def split_of(self, model: str) -> Split | None:
        """The split that the model's requests are thrown by now, None if all go to the stable version."""
        route, plan = self._table.models.get(model), self._plans.get((model, None))
        if route is None or plan is None or plan.canary is None or self._canaries.taken_back(model, self._table):
            return None
        return route.split

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
        """Serve by this table from now on, if it is newer; returns the generation in force.

        What the table brings is linked and, within a bound, ready before the swap; what it drops leaves the table
        first and then finishes what it has. A version that can't be linked doesn't keep the others back: it is left
        out, and tried again when the same table is applied again. A canary that the table takes back is so at once.
        """
        self._canaries.take_back(table, since=self._table.generation)
        async with self._applying:
            if not self._news(table):
                return self._table.generation
            wanted = loaded(table)
            fresh = [name for name, digest in wanted.items() if not self._serves(name, digest)]
            built = await asyncio.gather(*(self._build_if_possible(name, wanted[name]) for name in fresh))
            versions = {name: old for name, old in self._versions.items() if self._serves(name, wanted.get(name))}
            versions.update({name: version for name, version in zip(fresh, built, strict=True) if version is not None})
            gone = [version for name, version in self._versions.items() if versions.get(name) is not version]
            unserved = await self._unserved(table)
            self._versions, self._table, self._has_table = versions, table, True
            self._canaries.keep(table.models)
            self._plans = self._planned(unserved)
            self._count_who_waits()
            for version in gone:
                task = asyncio.get_running_loop().create_task(self._retire(version))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            log.info("serving by routing table %d: %s", table.generation, ", ".join(f"{m}@{v}" for m, v in versions))
            return table.generation

    async def close(self) -> None:
        """Give up every lane and connection."""
        self.mirrors.close()
        versions, self._versions, self._table, self._plans = self.versions, {}, EMPTY, {}
        await asyncio.gather(*(self._end(version) for version in versions), *self._closing)

    async def _unserved(self, table: RoutingTable) -> dict[str, Manifest]:
        """Manifests of the models that have a fallback chain and that the table has no version of.

        Without one, nobody could say what a request for such a model has to look like.
        """
        found: dict[str, Manifest] = {}
        for model in self._settings.models:
            if model.fallback and model.name not in table.models:
                try:
                    found[model.name] = await asyncio.to_thread(self._read_manifest, model.name, model.stable_version)
                except Exception as error:  # noqa: BLE001  # whatever is wrong with it: the others are served
                    log.error("%s isn't served, and its manifest can't be read: %s", model.name, error)
        return found

    def _planned(self, unserved: Mapping[str, Manifest]) -> dict[tuple[str, str | None], Plan]:
        """How every call that can be answered is answered."""
        plans: dict[tuple[str, str | None], Plan] = {}
        mirroring: set[Mirror] = set()
        for name, manifest in unserved.items():
            settings = self.settings_of(name)
            plans[name, None] = self.planner.of_model(settings, manifest).plan(None, settings.stable_version)
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
                plans[name, version] = model.pinned(found.served, found.decoder)
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

    def _news(self, table: RoutingTable) -> bool:
        """Whether applying the table would change anything."""
        if not self._has_table:
            return True
        if table.generation != self._table.generation:
            return table.generation > self._table.generation
        return len(self._versions) < len(loaded(self._table))

    def _serves(self, name: tuple[str, str], digest: str | None) -> bool:
        version = self._versions.get(name)
        return version is not None and version.digest == digest

    async def _build_if_possible(self, name: tuple[str, str], digest: str) -> Version | None:
        try:
            return await self._build(name, digest)
        except Exception:
            log.exception("%s@%s can't be served by this gateway", *name)
            return None

    async def _build(self, name: tuple[str, str], digest: str) -> Version:
        model, version = name
        manifest = await asyncio.to_thread(self._read_manifest, model, version)
        settings = self.settings_of(model)
        link = await self._link(model, version)
        lane = self._lane(f"{model}@{version}", manifest, settings)
        limits = channel_limits(self._settings)
        membership = Membership(lane, clock=self._clock, limits=limits)
        lane.set_safety_net(
            HandleClient(
                f"{model}@{version} (handle)",
                link.call,
                clock=self._clock,
                max_frame_bytes=limits.max_frame_bytes,
                available=lambda: link.available() and membership.any_alive,
                on_change=lane.pump,
            )
        )
        link.watch(membership.update)
        await self._until_live(lane)
        served = ServedVersion(
            model, version, lane.name, digest, lane, self._attempts(lane, settings), manifest.deterministic
        )
        decoder = RequestDecoder(model, manifest.signature)
        return Version(served, manifest, decoder, lane, membership, link, digest, settings.timeout_ms / 1000)

    def _attempts(self, lane: Lane, settings: ModelSettings) -> Attempts:
        breaker = Breaker(
            lane.name,
            breaker_limits(settings.breaker, timeout_s=settings.timeout_ms / 1000),
            clock=self._clock,
            random=self._random,
            on_change=lambda status: log.warning("the breaker of %s is %s: %s", lane.name, status.state, status.why),
        )
        return Attempts(
            lane,
            breaker,
            limits=retry_limits(settings.retry),
            budget=RetryBudget(settings.retry.budget_ratio, settings.retry.budget_max),
            clock=self._clock,
            random=self._random,
        )

    def _lane(self, name: str, manifest: Manifest, settings: ModelSettings) -> Lane:
        return Lane(
            name,
            manifest.signature,
            finite=manifest.finite,
            limits=LaneLimits(
                max_batch_rows=settings.max_batch_rows,
                max_batch_bytes=settings.max_batch_bytes,
                inflight_batches=settings.inflight_batches,
                max_waiting=settings.max_waiting,
            ),
            clock=self._clock,
            deadlines=self._deadlines,
            outliers=Outliers(ejection_limits(settings.ejection), clock=self._clock),
        )

    async def _until_live(self, lane: Lane) -> None:
        if not await self._came_true(lambda: lane.live_channels > 0, within_s=READY_WAIT_S):
            log.warning("%s has no tensor channel yet; the Serve handle carries its requests", lane.name)

    async def _retire(self, version: Version) -> None:
        """End a version that no request is routed to any more, once it has answered what it has."""
        lane = version.lane
        stats = version.served.attempts.stats
        await self._came_true(
            lambda: not stats.under_way and not lane.waiting and not lane.inflight_batches, within_s=version.timeout_s
        )
        await self._end(version)

    async def _came_true(self, condition: Callable[[], bool], *, within_s: float) -> bool:
        """Look again and again: versions come and go rarely, and the request path shall not pay for telling us."""
        until = self._clock.monotonic() + within_s
        while not (true := condition()) and self._clock.monotonic() < until:  # noqa: ASYNC110  # as said
            await asyncio.sleep(0.01)
        return true

    async def _end(self, version: Version) -> None:
        version.link.close()
        await version.lane.close()
        await version.membership.close()


def waiting_at(admission: Admission, share: float) -> Callable[[], int]:
    """This share of those who wait to be let in."""
    return lambda: round(share * sum(admission.waiting.values()))


def channel_limits(settings: Settings) -> ChannelLimits:
    channel = settings.channel
    return ChannelLimits(
        max_frame_bytes=channel.max_frame_bytes,
        busy_poll_s=settings.busy_poll_us * 1e-6,
        connect_timeout_s=channel.connect_timeout_s,
        ping_interval_s=channel.ping_interval_s,
        ping_timeout_s=channel.ping_timeout_s,
    )
