"""Keeps one tensor channel open to every live replica of a version.

Which replicas live, and where, is told from outside (Ray Serve knows); this dials, pings, dials again and hangs up.
Not here: what is sent (``serving.request.lane``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.channel.address import Address
from serving.channel.client import ChannelClient, NobodyAnswers
from serving.channel.work import ReplicaClient, Report
from serving.clock import Clock
from serving.errors import ReplicaLost, ReplicaUnavailable

log = logging.getLogger("holdfast.channel")


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """How the gateway treats a tensor channel; times in seconds."""

    max_frame_bytes: int = 64 << 20
    busy_poll_s: float = 0.0
    connect_timeout_s: float = 2.0
    redial_min_s: float = 0.05
    redial_max_s: float = 1.0
    ping_interval_s: float = 1.0
    ping_timeout_s: float = 3.0
    finish_timeout_s: float = 30.0
    steady_s: float = 1.0
    """A connection that lasted so long was a good one: if it breaks, the replica has probably died."""
    gone_s: float = 5.0
    """How long that is believed. By then Serve knows, or it was wrong: the Serve handle may be tried again."""


class Sender(Protocol):
    """Who uses the clients: a lane."""

    def attach(self, client: ReplicaClient) -> None: ...

    def detach(self, client: ReplicaClient) -> None: ...

    def forget(self, replica_id: str) -> None: ...

    def lost_ping(self, replica_id: str) -> None: ...

    def pump(self) -> None: ...

    def report(self, client: ReplicaClient) -> Report:
        """What the replica behind the client shall know of itself."""
        ...


class Membership:
    """The connections of one version's lane."""

    def __init__(self, lane: Sender, *, clock: Clock, limits: ChannelLimits, secret: str = "") -> None:
        self._lane = lane
        self._clock = clock
        self._limits = limits
        self._secret = secret
        self._keepers: dict[tuple[str, Address], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected: dict[ChannelClient, float] = {}
        """And since when."""
        self._gone: dict[str, float] = {}
        """Replicas that seem to have died, and when."""
        self._closed = False

    @property
    def any_alive(self) -> bool:
        """Whether any replica that Serve lists may be alive: Serve notices a death later than its broken connection."""
        doubtful_before = self._clock.monotonic() - self._limits.gone_s
        return not self._keepers or any(
            self._gone.get(replica_id, doubtful_before) <= doubtful_before for replica_id, _ in self._keepers
        )

    def update(self, replicas: Mapping[str, Address]) -> None:
        """These, by replica id, are all that live now. Connections to others end once they are idle."""
        if self._closed:
            return  # word that was on its way when the version was given up
        wanted = set(replicas.items())
        for member in [member for member in self._keepers if member not in wanted]:
            self._keepers.pop(member).cancel()
            self._gone.pop(member[0], None)
            if member[0] not in replicas:
                self._lane.forget(member[0])
        for member in wanted - self._keepers.keys():
            self._keepers[member] = self._begin(self._keep(*member))

    async def close(self) -> None:
        """Cut every connection."""
        self._closed = True
        self._keepers.clear()
        while self._tasks:  # a keeper that ends leaves its connection to one more task
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for client in tuple(self._connected):  # of tasks that were cancelled before they began
            await self._cut(client)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, replica_id: str, address: Address) -> None:
        """Hold a connection to one replica until cancelled."""
        limits = self._limits
        wait_s = limits.redial_min_s
        while True:
            try:
                client = await self._dial(replica_id, address)
            except NobodyAnswers:
                self._gone.setdefault(replica_id, self._clock.monotonic())
            except ReplicaUnavailable as error:
                log.debug("%s", error)
                self._gone.pop(replica_id, None)
            else:
                self._gone.pop(replica_id, None)
                if await self._watch(client) >= limits.steady_s:
                    wait_s = limits.redial_min_s
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, limits.redial_max_s)

    async def _dial(self, replica_id: str, address: Address) -> ChannelClient:
        return await ChannelClient.connect(
            replica_id,
            address,
            clock=self._clock,
            max_frame_bytes=self._limits.max_frame_bytes,
            busy_poll_s=self._limits.busy_poll_s,
            timeout_s=self._limits.connect_timeout_s,
            on_change=self._changed,
            secret=self._secret,
        )

    async def _watch(self, client: ChannelClient) -> float:
        """Offer a connected client to the lane until the connection is of no more use; how long that was."""
        self._connected[client] = self._clock.monotonic()
        self._lane.attach(client)
        try:
            while client.live:
                await client.ping(self._limits.ping_timeout_s, self._lane.report(client))
                await client.gone(self._limits.ping_interval_s)
        except ReplicaLost as error:
            log.warning("%s", error)
            if not client.lost:
                self._lane.lost_ping(client.replica_id)
            await client.close()
        finally:
            self._lane.detach(client)
            self._begin(self._hang_up(client))
        return self._lasted_s(client)

    def _changed(self, client: ChannelClient) -> None:
        """Something came back from a replica, or its connection is of no more use."""
        if client.lost and self._lasted_s(client) >= self._limits.steady_s:
            self._gone[client.replica_id] = self._clock.monotonic()  # until dialling it says otherwise
        self._lane.pump()

    def _lasted_s(self, client: ChannelClient) -> float:
        now = self._clock.monotonic()
        return now - self._connected.get(client, now)

    async def _hang_up(self, client: ChannelClient) -> None:
        """A replica that leaves, or that Serve no longer lists, still answers what it has.

        This has a task of its own because Serve may drop a replica from its list while it finishes.
        """
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.finish_timeout_s):
                    await client.drained()
        finally:
            await self._cut(client)

    async def _cut(self, client: ChannelClient) -> None:
        self._connected.pop(client, None)
        await client.close()
