"""A system that somebody else has started, on this machine: it is asked and loaded, and hurt only over its own API.

Its processes aren't ours, so faults that end processes which it doesn't name itself are refused (`faults.OF_ITS_OWN`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from loadtests.chaos.spec import Scenario
from loadtests.chaos.world import LITE, MODEL, Grounds
from loadtests.resilience.client import NoReply, Pool
from loadtests.resilience.errors import RunError
from loadtests.resilience.system import HoldfastUnderTest, versions_of
from loadtests.users.plan import is_loopback

_POLL_S = 0.1


def address(url: str) -> tuple[str, int]:
    """Host and port. Raises `RunError` for anything that isn't this machine's."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError as error:
        raise RunError(f"{url}: {error}") from None
    if parts.scheme not in ("", "http") or not is_loopback(host):
        raise RunError(f"{url} isn't loopback: chaos is only for a system on this machine, as http://127.0.0.1:8000")
    return host, port


class RunningSystem(HoldfastUnderTest):
    """What `HoldfastUnderTest` is, without a process of its own."""

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self.where = f"{host}:{port}"
        self.pool = Pool(host, port)
        self.arguments: dict[str, Any] = {"models": []}
        self.nodes = None
        self.gateway_count = 1

    async def look(self) -> None:
        """Who it is. Raises `RunError` if nobody answers, or it can't be hurt."""
        try:
            status, index = await self.pool.ask("POST", "/v2/repository/index", {"ready": True}, timeout_s=5.0)
        except NoReply as error:
            raise RunError(f"no Holdfast answers at {self.where}: {error}") from None
        if status != 200 or not isinstance(index, list):
            raise RunError(f"what answers at {self.where} is no Holdfast: {status}")
        await self._can_be_hurt()
        replicas = await self.all_replicas()
        versions: dict[str, list[str]] = {}
        for entry in index:
            versions.setdefault(str(entry["name"]), []).append(str(entry["version"]))
        self.arguments = {
            "models": [
                {"name": name, "versions": found, "replicas": len(replicas.get(f"{name}@{found[0]}", ()))}
                for name, found in versions.items()
                if name in (MODEL, LITE)
            ]
        }
        if {MODEL, LITE} - versions.keys():
            raise RunError(f"{self.where} doesn't serve {MODEL} and {LITE}, which the load asks for")
        gateways = await self.ask("GET", "/v2/holdfast/gateways")
        self.gateway_count = len(gateways["accepting"])

    async def _can_be_hurt(self) -> None:
        status, answer = await self.pool.ask("GET", "/v2/holdfast/faults", timeout_s=10.0)
        if status == 404:
            raise RunError(f"faults on demand are switched off at {self.where}: it needs the setting `faults: true`")
        if status != 200:
            said = answer.get("error", "") if isinstance(answer, dict) else answer
            raise RunError(f"{self.where} doesn't let itself be hurt: {status} {said}")

    async def as_it_is(self, scenario: Scenario) -> Scenario:
        """The scenario with this system's stable version and replicas of it, whatever the file says of them."""
        [status, *_] = await self.status() or [None]
        stable = None if status is None else status["models"].get(MODEL, {}).get("stable")
        if stable not in ("v1", "v2"):
            raise RunError(f"the stable version of {MODEL} at {self.where} is {stable}: it must be v1 or v2")
        replicas = len(await self.replicas(f"{MODEL}@{stable}"))
        system = msgspec.structs.replace(scenario.system, stable=stable, replicas=replicas)
        return msgspec.structs.replace(scenario, system=system)

    async def stop(self) -> list[str]:
        """It goes on."""
        self.pool.close()
        return []

    async def until(self, condition: Callable[[], Any], what: str, *, within_s: float) -> float:
        began = time.monotonic()
        while not await condition():
            if time.monotonic() - began > within_s:
                raise RunError(f"not within {within_s:g} s: {what}")
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - began

    async def whole(self) -> bool:
        """Whether all is there again that was there at the first look."""
        try:
            gateways = await self.ask("GET", "/v2/holdfast/gateways")
        except RunError:
            return False
        found = await self.all_replicas()
        wanted = {name: model["replicas"] for model in self.arguments["models"] for name in versions_of(model)}
        there = all(len(found.get(name, ())) >= count for name, count in wanted.items())
        return there and len(gateways["accepting"]) >= self.gateway_count

    async def status(self) -> list[Any]:
        """Of the one gateway that is asked."""
        try:
            status, answer = await self.pool.ask("GET", "/v2/holdfast/status", timeout_s=5.0)
        except NoReply:
            return []
        return [answer] if status == 200 else []

    async def accepting(self) -> list[int]:
        return []

    async def titled(self, wanted: Callable[[str], bool]) -> list[int]:
        """Its processes aren't ours to look for."""
        return []

    async def processes(self) -> dict[int, str]:
        return {}


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Grounds]:
    """The system at this address. Raises `RunError`."""
    system = RunningSystem(*address(url))
    try:
        await system.look()
        yield Grounds(system, Path())
    finally:
        system.pool.close()
