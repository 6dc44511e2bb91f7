"""Rollouts with everything around them made up: gateways and their traffic, Serve, the disk, people, and sudden death.

The controller, the event log's chain, the versions, the effects, the collector and the gateways' ledgers are the real
ones. A control plane dies at a *place*: after an event is on the disk, or after something was done to the world and
before anybody could say so. What comes after it has nothing but what was on the disk. Not here: what stories there are
(``test_rollout_restarts.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from models.manifest import ModelVersion
from models.registry import Registry
from serving.errors import LoadFailed, RolloutRefused, RolloutsUnavailable
from serving.model_settings import ModelSettings
from serving.rollout.controller import Controller
from serving.rollout.desired import DesiredState, Entry, decode_entry
from serving.rollout.effects import Effects
from serving.rollout.event_log import Event, EventLog, LogUnavailable
from serving.rollout.events import Decision
from serving.rollout.history import ROLLOUT_KIND, Claim, folded
from serving.rollout.state import Phase, RolloutState
from serving.rollout.versions import VersionControl
from serving.rollout.withdrawn_file import WithdrawnFile
from serving.rollout.world import Told
from serving.routing.collected import Collected, asked_from_json, collected_to_json
from serving.routing.outcomes import Kind, Ledger, SplitOutcomes
from serving.routing.table import EMPTY, RoutingTable, Split
from serving.routing.table_file import TableFile
from serving.settings import Settings
from tests.event_logs import MemoryStore
from tests.fakes import FakeClock, SkippingLoop

RATE: Final = 200
"""Requests per second, over all gateways."""
KEYS: Final = 3001
LOOK_S: Final = 0.3
"""So often people look at how it goes."""
SETTLE_S: Final = 1.5
"""What is left to do after a rollout's end is done by then."""
TOO_LONG_S: Final = 400.0

Verdict = Callable[[bool, float, float, int], Kind | None]
"""How an attempt ends: whether it is the canary's, at which weight, chance, and which one of its gateway's it is."""
Person = Callable[[RolloutState], str]
"""The command that a person gives now, if any."""


class Killed(SystemExit):
    """The control plane dies here; the only kind of exception that gets out of a loop at once."""


def _draws() -> list[tuple[int, float]]:
    chance = Random(7)
    return [(chance.randrange(KEYS), chance.random()) for _ in range(int(RATE * TOO_LONG_S))]


_THROWN: Final = [Random(key).random() for key in range(KEYS)]
_DRAWS: Final = _draws()
"""Every request's stickiness key, and its luck."""


def patient(state: RolloutState) -> str:
    """A person who resumes whatever waits for one."""
    return "resume" if state.phase is Phase.PAUSED else ""


def healthy(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "failed" if luck < 0.005 else None


def failing(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "failed" if luck < (0.3 if canary else 0.005) else None


def ten_times_slow(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    """Every tenth answer of v1 takes longer than 25 ms, so of a version ten times as slow than 250 ms."""
    return "slow" if luck < (0.1 if canary else 0.001) else None


@dataclass(repr=False, eq=False)
class Story:
    """What befalls a rollout of v2 over v1, and how it has to end."""

    verdict: Verdict
    end: Phase
    person: Person = patient
    golden: str = ""
    """Why the canary never becomes ready."""
    crash_every_s: float = 0.0
    """Replicas of the canary die so often."""
    ready_after_s: float = 0.5
    """So long it takes to bring the canary up."""
    timed: bool = False
    """What befalls it comes in its own time: a control plane that is away then decides less before it."""


class Gateway:
    """Counts its share of the traffic in a real ledger, whenever anybody wants to know or to change something."""

    def __init__(self, number: int, of: int, story: Story, clock: FakeClock) -> None:
        self.name = f"g{number}"
        self.started = clock.wall()
        self.table = EMPTY
        self._number, self._of = number, of
        self._story, self._clock = story, clock
        self._ledger: Ledger | None = None
        self._next = self._due()

    def apply(self, table: RoutingTable) -> int:
        """The newer table counts; what came until now was thrown by the older one."""
        self._count()
        if table.generation > self.table.generation:
            self.table = table
        else:
            assert table.generation < self.table.generation or table == self.table, "two tables with one number"
        return self.table.generation

    def outcomes(self, known: Mapping[str, int]) -> bytes:
        self._count()
        ledger, split = self._ledger, self._split
        outcomes: tuple[SplitOutcomes, ...] = ()
        if ledger is not None:
            told = SplitOutcomes(
                gateway=self.name,
                started=self.started,
                generation=self.table.generation,
                model="digits",
                epoch=ledger.epoch,
                canary=ledger.canary,
                stable=ledger.stable,
                weight=split.weight if split is not None else 0.0,
                ended=split is None,
                fault="",
                weights=ledger.counts(),
                bad_keys=ledger.bad_keys(known.get(self.name, 0)),
                next_key=ledger.next_key,
                keys_full=ledger.keys_full,
            )
            outcomes = (told,)
        return collected_to_json(Collected(self.name, self.started, self.table.generation, outcomes))

    @property
    def _split(self) -> Split | None:
        route = self.table.models.get("digits")
        return None if route is None else route.split

    def _due(self) -> int:
        return int((self._clock.now - 1000.0) * RATE)

    def _count(self) -> None:
        first, self._next = self._next, self._due()
        if (split := self._split) is None:
            return
        if self._ledger is None or self._ledger.epoch != split.epoch:
            self._ledger = Ledger(split.epoch, split.version, self.table.models["digits"].stable)
        canary, stable = self._ledger.at(split.weight)
        for number in range(first + (self._number - first) % self._of, self._next, self._of):
            key, luck = _DRAWS[number]
            is_canary = _THROWN[key] < split.weight
            variant = canary if is_canary else stable
            variant.attempts += 1
            if (kind := self._story.verdict(is_canary, split.weight, luck, variant.attempts)) is not None:
                self._ledger.bad(variant, kind, key)


class MemoryTable(TableFile):
    def __init__(self, world: World) -> None:
        super().__init__(Path("routing.json"))
        self._world = world

    def read(self) -> RoutingTable:
        return self._world.written

    def write(self, table: RoutingTable) -> None:
        self._world.wrote(table)


class MemoryWithdrawn(WithdrawnFile):
    def __init__(self, world: World) -> None:
        super().__init__(Path("withdrawn.json"))
        self._world = world

    def read(self) -> dict[str, str]:
        return dict(self._world.withdrawn)

    def write(self, withdrawn: Mapping[str, str]) -> None:
        self._world.withdrawn = dict(withdrawn)


@dataclass(repr=False, eq=False)
class World:
    """All that outlives a control plane."""

    story: Story
    registry: Registry
    file: str
    gateways: int = 2
    models: tuple[ModelSettings, ...] = (ModelSettings(name="digits", versions=("v1",)),)
    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    written: RoutingTable = EMPTY
    withdrawn: dict[str, str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    changes_at: list[tuple[str, float]] = field(default_factory=list)
    places: int = 0
    """So many places have been passed where a control plane may die."""
    kill_at: Callable[[str, int], bool] = lambda _where, _place: False
    away: tuple[float, float] = (0.0, 0.0)
    """The event log can't be asked from when on, and until when."""
    answers_lost: float = 0.0
    """Share of the writes that are reported as failed though they are done."""
    live: list[Gateway] = field(default_factory=list)
    _begun: float = 0.0
    _luck: Random = field(default_factory=lambda: Random(11))

    def __post_init__(self) -> None:
        self.start_gateways()
        self.store.before = self._before_log
        self.store.after_write = self._after_write

    def _before_log(self) -> None:
        if self.away[0] <= self.clock.now < self.away[1]:
            raise LogUnavailable("the server is gone")

    def _after_write(self) -> None:
        self.at("event")
        if self._luck.random() < self.answers_lost / 2:
            raise LogUnavailable("the connection broke before the answer")

    def start_gateways(self) -> None:
        self.live = [Gateway(number, self.gateways, self.story, self.clock) for number in range(self.gateways)]
        for gateway in self.live:
            gateway.apply(self.written)

    def stop_all(self) -> None:
        """The machine is switched off, and on again: only logs and artifacts are left, and what is withdrawn."""
        self.running.clear()
        self.written = EMPTY
        self.start_gateways()

    def at(self, where: str) -> None:
        self.places += 1
        if self.kill_at(where, self.places):
            raise Killed(f"{where} {self.places}")

    def wrote(self, table: RoutingTable) -> None:
        self.written = table
        for name, route in table.models.items():
            assert {f"{name}@{version}" for version in route.versions} <= self.running, "served without replicas"
        self._changed(_shown(table))
        self.at("written")

    def _changed(self, what: str) -> None:
        if not self.changes or self.changes[-1] != what:
            self.changes_at.append((what, self.clock.now))

    @property
    def changes(self) -> list[str]:
        """What really happened to the world, in order; asking again for what is so already is no change."""
        return [what for what, _ in self.changes_at]

    # What the control plane is given

    async def publish(self, table: RoutingTable, *, built: bool) -> Told:
        acknowledged = 0
        for gateway in self.live:
            await asyncio.sleep(0.004)
            acknowledged += gateway.apply(table) >= table.generation
            self.at("told")
        return Told(table.generation, acknowledged, len(self.live))

    async def ask(self, asked: bytes) -> tuple[int, Sequence[bytes]]:
        keys = asked_from_json(asked).keys_from
        await asyncio.sleep(0.003)
        return len(self.live), [gateway.outcomes(keys.get("digits", {})) for gateway in self.live]

    async def deploy(self, name: ModelVersion, settings: ModelSettings) -> None:
        await asyncio.sleep(self.story.ready_after_s if name.version == "v2" else 0.5)
        if self.story.golden and name.version == "v2":
            raise LoadFailed(self.story.golden)
        if str(name) not in self.running:
            self.running.add(str(name))
            self._changed(f"deployed {name.version}")
            self._begun = self.clock.now
        self.at("deployed")

    async def delete(self, name: ModelVersion) -> None:
        route = self.written.models.get(name.model)
        assert route is None or name.version not in route.versions, "it is served, and ends"
        if str(name) in self.running:
            self.running.remove(str(name))
            self._changed(f"ended {name.version}")
        self.at("ended")

    def watch(self, name: ModelVersion, tell: Callable[[Iterable[str]], None]) -> Callable[[], None]:
        async def telling() -> None:
            while True:
                every_s = self.story.crash_every_s
                age = int((self.clock.now - self._begun) / every_s) if every_s and name.version == "v2" else 0
                tell([f"r{age}"])
                await asyncio.sleep(LOOK_S)

        task = asyncio.ensure_future(telling())

        def stop() -> None:
            task.cancel()

        return stop

    # Control planes, one after the other, or several at once

    def controller(self, name: str = "c") -> Controller:
        settings = Settings(models=self.models)
        versions = VersionControl(
            settings,
            registry=self.registry,
            deployer=self,
            publish=self.publish,
            state=MemoryTable(self),
            withdrawn=MemoryWithdrawn(self),
        )
        effects = Effects(
            versions, registry=self.registry, settings=settings, clock=self.clock, ask=self.ask, watch=self.watch
        )
        claim = Claim(f"{name}{self.places}", "here")
        return Controller(effects, open_log=self.store.open, claim=claim, clock=self.clock)

    async def person(self, controller: Controller) -> None:
        """Starts the rollout, and does as the story says until there is nothing left to do."""
        until = self.clock.now + TOO_LONG_S
        while self.clock.now < until:
            await asyncio.sleep(LOOK_S)
            state = controller.desired.rollouts.get("digits")
            if state is not None and state.settled:
                return await asyncio.sleep(SETTLE_S)
            with contextlib.suppress(RolloutsUnavailable):
                if state is not None and (command := self.story.person(state)):
                    await controller.command("digits", command, who="anna", why="")
                elif state is None:
                    with contextlib.suppress(RolloutRefused):  # v1 isn't served yet
                        await controller.start(self.file, who="anna", why="")
        raise AssertionError(f"no end: {controller.status} {controller.desired.rollouts.get('digits')}")

    def live_once(self) -> bool:
        """One control plane, until the story has ended; False if it dies before."""

        async def life() -> None:
            controller = self.controller()
            task = asyncio.ensure_future(controller.run())
            try:
                await self.person(controller)
            finally:
                task.cancel()

        return self.on_a_loop(life)

    def live_twice(self, *, after_s: float) -> list[str]:
        """Two control planes, the second of which begins later, until the story has ended; how they stand then."""
        states: list[str] = []

        async def lives() -> None:
            controllers = [self.controller("a")]
            tasks = [asyncio.ensure_future(controllers[0].run())]
            persons = [asyncio.ensure_future(self.person(controllers[0]))]
            try:
                if after_s:
                    await asyncio.wait(persons, timeout=after_s)
                controllers.append(self.controller("b"))
                tasks.append(asyncio.ensure_future(controllers[1].run()))
                persons.append(asyncio.ensure_future(self.person(controllers[1])))
                await asyncio.wait(persons, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(1.0)
                states.extend(controller.status.state for controller in controllers)
            finally:
                for task in (*tasks, *persons):
                    task.cancel()

        assert self.on_a_loop(lives)
        return states

    def on_a_loop(self, life: Callable[[], object]) -> bool:
        loop = SkippingLoop(self.clock)
        unseen: list[str] = []
        loop.set_exception_handler(
            lambda _, context: unseen.append(f"{context['message']}: {context.get('exception')!r}")
        )
        try:
            loop.run_until_complete(life())  # type: ignore[arg-type]
        except Killed:
            unseen.append("killed")
        kill_at, self.kill_at = self.kill_at, lambda _where, _place: False
        before = (self.places, len(self.changes), self.written)
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Killed):  # some have heard of it from others
                loop.run_until_complete(asyncio.wait(tasks))
        assert before == (self.places, len(self.changes), self.written), "the dead do something"
        self.kill_at = kill_at
        loop.set_exception_handler(lambda _loop, _context: None)
        loop.close()
        killed = unseen == ["killed"]
        assert killed or not unseen, unseen
        return not killed

    # What came of it

    @property
    def log(self) -> EventLog:
        return self.store.open()

    @property
    def desired(self) -> DesiredState:
        return folded(self.log).desired

    @property
    def state(self) -> RolloutState:
        return self.desired.rollouts["digits"]

    def events(self) -> list[tuple[Event, Entry]]:
        return [(event, decode_entry(event.payload)) for event in self.log.read() if event.kind == ROLLOUT_KIND]

    def decisions(self) -> list[Decision]:
        return [entry.event for _, entry in self.events() if isinstance(entry.event, Decision)]


def _shown(table: RoutingTable) -> str:
    """What the table says of digits, but for its number."""
    if (route := table.models.get("digits")) is None:
        return "no table"
    split = "" if route.split is None else f", {route.split.version} has {100 * route.split.weight:g} %"
    gone = f", void: {len(table.withdrawn)}" if table.withdrawn else ""
    return f"{' '.join(sorted(route.versions))}, {route.stable} answers{split}{gone}"


def said(decision: Decision, *, figures: bool) -> bytes:
    """The decision's bytes without when it was taken, and without the ``figures`` that it gives as reason."""
    fields = msgspec.to_builtins(decision)
    del fields["at"]
    if not figures:
        fields.pop("reason", None)
        fields.pop("findings", None)
    return msgspec.json.encode(fields)
