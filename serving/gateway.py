"""One gateway: the lanes of all served versions, swapped when the routing table changes.

Not here: HTTP (``serving.ingress``), Ray (``serving.deployments``), who decides what is served (the control plane).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

from models.manifest import Manifest
from serving.channel.address import Address
from serving.channel.handle import HandleClient
from serving.channel.membership import ChannelLimits, Membership
from serving.channel.watchers import ReplicaProcess
from serving.clock import Clock
from serving.errors import ModelNotFound
from serving.model_settings import ModelSettings
from serving.protocol.decode import RequestDecoder
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from serving.request.pipeline import ServedVersion
from serving.routing.table import EMPTY, RoutingTable, loaded
from serving.settings import Settings

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
    lane: Lane
    membership: Membership
    link: VersionLink
    digest: str


class Gateway:
    """Routes calls to lanes. ``apply`` is the only thing that changes it."""

    def __init__(self, settings: Settings, *, link: Link, read_manifest: ReadManifest, clock: Clock) -> None:
        self._settings = settings
        self._link = link
        self._read_manifest = read_manifest
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._table = EMPTY
        self._versions: dict[tuple[str, str], Version] = {}
        self._applying = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._has_table = False
        self.draining = False

    # Routing

    def route(self, model: str, version: str | None) -> ServedVersion:
        """Raises ``ModelNotFound``."""
        return self.version(model, version).served

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

    # Change

    async def apply(self, table: RoutingTable) -> int:
        """Serve by this table from now on, if it is newer; returns the generation in force.

        What the table brings is linked and, within a bound, ready before the swap; what it drops leaves the table
        first and then finishes what it has. A version that can't be linked doesn't keep the others back: it is left
        out, and tried again when the same table is applied again.
        """
        async with self._applying:
            if not self._news(table):
                return self._table.generation
            wanted = loaded(table)
            fresh = [name for name, digest in wanted.items() if not self._serves(name, digest)]
            built = await asyncio.gather(*(self._build_if_possible(name, wanted[name]) for name in fresh))
            versions = {name: old for name, old in self._versions.items() if self._serves(name, wanted.get(name))}
            versions.update({name: version for name, version in zip(fresh, built, strict=True) if version is not None})
            gone = [version for name, version in self._versions.items() if versions.get(name) is not version]
            self._versions, self._table, self._has_table = versions, table, True
            for version in gone:
                task = asyncio.get_running_loop().create_task(self._retire(version))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            log.info("serving by routing table %d: %s", table.generation, ", ".join(f"{m}@{v}" for m, v in versions))
            return table.generation

    async def close(self) -> None:
        """Give up every lane and connection."""
        versions, self._versions, self._table = self.versions, {}, EMPTY
        await asyncio.gather(*(self._end(version) for version in versions), *self._closing)

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
                available=link.available,
                on_change=lane.pump,
            )
        )
        link.watch(membership.update)
        await self._until_live(lane)
        served = ServedVersion(
            model, version, lane.name, RequestDecoder(model, manifest.signature), lane, settings.timeout_ms / 1000
        )
        return Version(served, manifest, lane, membership, link, digest)

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
        )

    async def _until_live(self, lane: Lane) -> None:
        if not await self._came_true(lambda: lane.live_channels > 0, within_s=READY_WAIT_S):
            log.warning("%s has no tensor channel yet; the Serve handle carries its requests", lane.name)

    async def _retire(self, version: Version) -> None:
        """End a version that no request is routed to any more, once it has answered what it has."""
        lane = version.lane
        await self._came_true(lambda: not lane.waiting and not lane.inflight_batches, within_s=version.served.timeout_s)
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


def channel_limits(settings: Settings) -> ChannelLimits:
    channel = settings.channel
    return ChannelLimits(
        max_frame_bytes=channel.max_frame_bytes,
        busy_poll_s=settings.busy_poll_us * 1e-6,
        connect_timeout_s=channel.connect_timeout_s,
        ping_interval_s=channel.ping_interval_s,
        ping_timeout_s=channel.ping_timeout_s,
    )
