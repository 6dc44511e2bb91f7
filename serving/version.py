"""A served version in a gateway, from the link to its replicas to the end of its last request.

Not here: which versions are served, and when (``serving.gateway``).
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
from serving.model_settings import ModelSettings
from serving.protocol.decode import RequestDecoder
from serving.request.attempts import Attempts, retry_limits
from serving.request.breaker import Breaker, breaker_limits
from serving.request.budget import RetryBudget
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.lane import Lane, LaneLimits
from serving.request.outlier import ejection_limits
from serving.request.pipeline import ServedVersion
from serving.settings import Settings

log = logging.getLogger("holdfast.gateway")

READY_WAIT_S = 5.0
"""How long a version that a table brings is waited for until it has its first live replica."""


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


class VersionBuilder:
    """Makes versions, and ends them."""

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        read_manifest: ReadManifest,
        clock: Clock,
        deadlines: Deadlines,
        random: Callable[[], float],
        secret: str = "",
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._link = link
        self._read_manifest = read_manifest
        self._clock = clock
        self._deadlines = deadlines
        self._random = random

    async def build(self, model: str, version: str, digest: str, settings: ModelSettings) -> Version:
        """A version that is linked and, within a bound, has its first channel. Raises whatever is wrong with it.

        What doesn't become a version, also because nobody wants it any more, is closed again.
        """
        manifest = await asyncio.to_thread(self._read_manifest, model, version)
        link = await self._link(model, version)
        lane = self._lane(f"{model}@{version}", manifest, settings)
        limits = channel_limits(self._settings)
        membership = Membership(lane, clock=self._clock, limits=limits, secret=self._secret)
        served = ServedVersion(
            model, version, lane.name, digest, lane, self._attempts(lane, settings), manifest.deterministic
        )
        decoder = RequestDecoder(model, manifest.signature)
        built = Version(served, manifest, decoder, lane, membership, link, digest, settings.timeout_ms / 1000)
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
        try:
            link.watch(membership.update)
            if not await self._came_true(lambda: lane.live_channels > 0, within_s=READY_WAIT_S):
                log.warning("%s has no tensor channel yet; the Serve handle carries its requests", lane.name)
        except BaseException:
            await self.end(built)
            raise
        return built

    async def retire(self, version: Version) -> None:
        """End a version that no request is routed to any more, once it has answered what it has."""
        lane = version.lane
        stats = version.served.attempts.stats
        await self._came_true(
            lambda: not stats.under_way and not lane.waiting and not lane.inflight_batches, within_s=version.timeout_s
        )
        await self.end(version)

    async def end(self, version: Version) -> None:
        version.link.close()
        await version.lane.close()
        await version.membership.close()

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

    async def _came_true(self, condition: Callable[[], bool], *, within_s: float) -> bool:
        """Look again and again: versions come and go rarely, and the request path shall not pay for telling us."""
        until = self._clock.monotonic() + within_s
        while not (true := condition()) and self._clock.monotonic() < until:  # noqa: ASYNC110  # as said
            await asyncio.sleep(0.01)
        return true


def channel_limits(settings: Settings) -> ChannelLimits:
    channel = settings.channel
    return ChannelLimits(
        max_frame_bytes=channel.max_frame_bytes,
        busy_poll_s=settings.busy_poll_us * 1e-6,
        connect_timeout_s=channel.connect_timeout_s,
        ping_interval_s=channel.ping_interval_s,
        ping_timeout_s=channel.ping_timeout_s,
    )
