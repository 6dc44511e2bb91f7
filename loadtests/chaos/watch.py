"""Looks at the system twice a second, less often in a long run: breakers, limits, canaries, replicas, memory.

What it saw becomes `series.json`. Not here: what clients saw (`loadtests.users`).
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any, Final

from loadtests.chaos import census
from loadtests.chaos.world import World
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import rss_mb

_STATES: Final = {"closed": 0.0, "half_open": 1.0, "open": 2.0}
_EVERY_S: Final = 0.5
_LOOKS: Final = 600
"""About so many looks in a long run, so that its record stays small."""
_LOOK_S: Final = 2.0

Series = tuple[str, str, str]
"""Name, label and unit."""


class Watch:
    def __init__(self, world: World) -> None:
        self._world = world
        self._times: list[float] = []
        self._looks: list[Mapping[Series, float]] = []
        self.ejected = False
        """Whether any gateway ever left a replica out."""
        self.counted: list[census.Counted] = []
        """All processes, if the scenario promises something about them."""
        self._every_s = max(_EVERY_S, world.scenario.load.seconds / _LOOKS)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            begun_s = self._world.now_s
            with contextlib.suppress(NoReply, RunError, TimeoutError, KeyError, OSError):
                async with asyncio.timeout(_LOOK_S):
                    look = await self._look()
                self._times.append(round(begun_s, 3))
                self._looks.append(look)
            await asyncio.sleep(max(0.05, begun_s + self._every_s - self._world.now_s))

    async def _look(self) -> dict[Series, float]:
        system = self._world.system
        statuses, replicas = await asyncio.gather(system.status(), system.all_replicas())
        self.ejected = self.ejected or any(_ejects(status) for status in statuses)
        found = {("replicas", name, ""): float(len(alive)) for name, alive in replicas.items()}
        for status in statuses:
            _add(found, status)
        sizes = [rss_mb(int(status["gateway"]["pid"])) for status in statuses]
        return (
            found
            | {
                ("gateways", "", ""): float(len(statuses)),
                ("machine_load", "", "processes"): round(os.getloadavg()[0], 2),
                ("gateway_memory", "", "MB"): round(sum(mb for mb in sizes if not math.isnan(mb)), 1),
            }
            | await self._census()
        )

    async def _census(self) -> dict[Series, float]:
        if self._world.scenario.must.flat is None:
            return {}
        processes = await self._world.system.processes()
        self.counted.append(await asyncio.to_thread(census.count, self._world.now_s, processes))
        return census.shown(self.counted[-1])

    def series(self) -> dict[str, Any]:
        """What wasn't there in a look is null."""
        keys = dict.fromkeys(key for look in self._looks for key in look)
        return {
            "t_s": self._times,
            "series": [
                {"name": name, "label": label, "unit": unit, "values": [look.get(key) for look in self._looks]}
                for key in sorted(keys)
                for name, label, unit in [key]
            ],
        }

    def values(self, name: str) -> list[tuple[float, float]]:
        """Moments and values of all series of this name."""
        return [
            (at_s, value)
            for at_s, look in zip(self._times, self._looks, strict=True)
            for (series, _, _), value in look.items()
            if series == name
        ]


def _add(found: dict[Series, float], status: Mapping[str, Any]) -> None:
    """One gateway's words: the worst breaker and the largest weight count, the rest adds up."""
    for name, model in status["models"].items():
        for key, what in (("limit", "admission_limit"), ("inflight", "requests_in_flight"), ("waiting", "waiting")):
            value = (model.get("admission") or {}).get(key)
            if isinstance(value, Mapping):  # by priority
                value = sum(value.values())
            if value is not None:
                found[what, name, ""] = found.get((what, name, ""), 0.0) + value
        for version, of_version in model["versions"].items():
            series = ("breaker", f"{name}@{version}", "")
            found[series] = max(found.get(series, 0.0), _STATES[of_version["breaker"]["state"]])
        if (canary := model.get("canary")) is not None:
            series = ("canary_weight", f"{name}@{canary['version']}", "%")
            weight = 0.0 if canary.get("ended") else float(canary["weight"])
            found[series] = max(found.get(series, 0.0), weight)


def _ejects(status: Mapping[str, Any]) -> bool:
    return any(
        replica.get("ejected")
        for model in status["models"].values()
        for version in model["versions"].values()
        for replica in version.get("replicas", ())
        if isinstance(replica, Mapping)
    )
