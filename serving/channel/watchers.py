"""Who in this process wants to know the replicas of an application, and what was last heard of them.

Serve's routers run in the caller's process, in a thread of their own if Serve likes; they tell this. Not here: Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from serving.channel.address import Address

OnReplicas = Callable[[Mapping[str, Address]], None]


class ReplicaProcess(NamedTuple):
    """Where a replica runs: its process, the node as Ray names it, and its IP address. 0 and "" if it didn't say.

    Nodes may have processes with the same pid.
    """

    pid: int = 0
    node: str = ""
    ip: str = ""


class Watchers:
    """Who in this process wants to know the replicas of an application.

    Serve's routers run in the caller's process and hear of every change; ``MembershipRouter`` tells this object.
    """

    def __init__(self) -> None:
        self._replicas: dict[str, dict[str, Address]] = {}
        self._processes: dict[str, Mapping[str, ReplicaProcess]] = {}
        self._watching: dict[str, list[tuple[OnReplicas, Callable[[], None]]]] = {}

    def changed(
        self,
        application: str,
        replicas: dict[str, Address],
        processes: Mapping[str, ReplicaProcess] = MappingProxyType({}),
    ) -> None:
        self._replicas[application] = replicas
        self._processes[application] = processes
        for _, tell in self._watching.get(application, ()):
            tell()

    def watch(self, application: str, on_replicas: OnReplicas) -> None:
        """Call ``on_replicas`` on the running loop, now and at every change."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            replicas = self._replicas.get(application, {})
            loop.call_soon_threadsafe(lambda: on_replicas(replicas))

        self._watching.setdefault(application, []).append((on_replicas, tell))
        tell()

    def live(self, application: str) -> int:
        return len(self._replicas.get(application, {}))

    def processes(self, application: str) -> Mapping[str, ReplicaProcess]:
        """By id, every replica that Serve lists, whether it answers or not."""
        return self._processes.get(application, {})

    def forget(self, application: str, on_replicas: OnReplicas) -> None:
        """This one doesn't want to know any more. A version that is unloaded and loaded again has two for a while."""
        watching = self._watching.get(application, [])
        watching[:] = [one for one in watching if one[0] != on_replicas]
        if not watching:
            self._watching.pop(application, None)
            self._replicas.pop(application, None)
            self._processes.pop(application, None)


WATCHERS = Watchers()
"""One for the process, because Serve makes the routers, not we."""
