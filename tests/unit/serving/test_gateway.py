"""A gateway while its table changes: a request always finds a version that can answer, or hears that there is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest

from models.manifest import Manifest
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.channel.address import Address, UnixAddress
from serving.channel.messages import PROTOCOL_VERSION, Hello
from serving.channel.runner import ModelRunner
from serving.channel.server import TensorServer
from serving.clock import SystemClock
from serving.errors import ModelNotFound, ReplicaLost, ReplicaUnavailable
from serving.gateway import Gateway
from serving.model_settings import ModelSettings, UseStatic
from serving.request.pipeline import InferCall, Pipeline
from serving.request.record import RequestRecorder
from serving.routing.collected import (
    Asked,
    asked_from_json,
    asked_to_json,
    collected_from_json,
    collected_to_json,
)
from serving.routing.outcomes import AtWeight, Counted, SplitOutcomes
from serving.routing.table import EMPTY, RoutingTable, Split, loaded
from serving.settings import Settings
from serving.version import READY_WAIT_S
from tests.fakes import DOUBLE, FakeClock, FakeLink, publish_version, request_of, settled, values_of

LIMIT = 1 << 20


class Rig:
    def __init__(self, clock: FakeClock, registry: Registry, settings: Settings | None = None) -> None:
        self.clock = clock
        self.registry = registry
        self.links: dict[str, list[FakeLink]] = {}
        self.broken: set[str] = set()
        self.delay_s: Callable[[str], float] = lambda name: 0.0
        self.replicas = 1
        self.gateway = Gateway(settings or Settings(), link=self._link, read_manifest=registry.manifest, clock=clock)

    async def _link(self, model: str, version: str) -> FakeLink:
        name = f"{model}@{version}"
        await asyncio.sleep(self.delay_s(name))
        if name in self.broken:
            raise ReplicaUnavailable("no such application")
        link = FakeLink(self.clock, replicas=self.replicas)
        self.links.setdefault(name, []).append(link)
        return link

    @property
    def opened(self) -> list[str]:
        """Every link that is open now."""
        return sorted(name for name, links in self.links.items() for link in links if not link.closed)

    @property
    def closed(self) -> list[str]:
        return [name for name, links in self.links.items() if links[-1].closed]

    def link(self, name: str) -> FakeLink:
        return self.links[name][-1]

    def manifest(self, model: str, version: str) -> Manifest:
        return publish_version(self.registry, model, version, version.encode())

    def with_version(self, table: RoutingTable, name: str, *, stable: bool = False) -> RoutingTable:
        model, version = name.split("@")
        return table.with_version(model, version, self.manifest(model, version).digest, stable=stable)

    async def ask(self, model: str = "m", version: str | None = None) -> list[float]:
        served = self.gateway.route(model, version).served
        assert served is not None
        return values_of(await served.lane.submit(request_of(1, 2), self.clock.now + 60).answer)


@pytest.fixture
def rig(clock: FakeClock, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(clock, Registry(tmp_path_factory.mktemp("store")))


async def test_before_it_has_a_table_it_is_neither_ready_nor_accepting(clock: FakeClock, rig: Rig) -> None:
    assert (rig.gateway.ready, rig.gateway.accepting) == (False, False)
    with pytest.raises(ReplicaUnavailable, match="doesn't know yet what is served"):
        rig.gateway.route("m", None)


async def test_what_is_coming_is_worth_asking_for_again_and_what_is_not_is_not_found(
    clock: FakeClock, rig: Rig
) -> None:
    coming = rig.with_version(EMPTY.expecting(["m@v1", "m@v2", "n@v1"]), "n@v1")
    await rig.gateway.apply(coming)
    for version in (None, "v1", "v2"):
        with pytest.raises(ReplicaUnavailable, match="isn't up yet"):
            rig.gateway.route("m", version)
        with pytest.raises(ReplicaUnavailable, match="isn't up yet"):
            rig.gateway.version("m", version)
    for model, version in (("x", None), ("m", "v3"), ("n", "v2")):
        with pytest.raises(ModelNotFound):
            rig.gateway.route(model, version)
    assert await rig.ask("n") == [2, 4]
    await rig.gateway.apply(rig.with_version(coming, "m@v2").without_version("m", "v1", reason="it can't be read"))
    assert await rig.ask("m") == [2, 4]
    with pytest.raises(ModelNotFound):
        rig.gateway.route("m", "v1")
    await rig.gateway.close()


async def test_until_anything_of_what_is_coming_is_there_it_accepts_nothing(clock: FakeClock, rig: Rig) -> None:
    coming = EMPTY.expecting(["m@v1", "n@v1"])
    one_fails = coming.without_version("m", "v1", reason="it can't be read")
    both_fail = one_fails.without_version("n", "v1", reason="it can't be read")
    accepting = []
    for table in (coming, one_fails, both_fail):
        await rig.gateway.apply(table)
        accepting.append(rig.gateway.accepting)
    assert accepting == [False, False, True], "when nothing comes any more, that can be told"
    await rig.gateway.close()


async def test_a_version_that_the_table_brings_is_worth_asking_for_again_while_it_is_built(
    clock: FakeClock, rig: Rig
) -> None:
    one = rig.with_version(EMPTY, "n@v1")
    await rig.gateway.apply(one)
    rig.delay_s = lambda name: 1.0
    applying = asyncio.create_task(rig.gateway.apply(rig.with_version(one, "m@v1")))
    await asyncio.sleep(0)
    for version in (None, "v1"):
        with pytest.raises(ReplicaUnavailable, match="'v1' isn't up here yet"):
            rig.gateway.route("m", version)
    await applying
    assert await rig.ask("m") == [2, 4]
    await rig.gateway.close()


async def test_with_an_empty_table_it_accepts_but_is_never_ready_for_nothing(clock: FakeClock, rig: Rig) -> None:
    await rig.gateway.apply(EMPTY)
    assert (rig.gateway.ready, rig.gateway.accepting) == (False, True)


async def test_it_serves_by_the_table(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(rig.with_version(EMPTY, "m@v1"), "m@v2")
    assert await rig.gateway.apply(table) == 2
    assert rig.gateway.ready
    assert rig.gateway.route("m", None).key == ("m", "v1")
    assert rig.gateway.route("m", "v2").key == ("m", "v2")
    assert await rig.ask() == [2, 4]
    with pytest.raises(ModelNotFound):
        rig.gateway.route("m", "v3")
    await rig.gateway.close()


async def test_an_older_table_changes_nothing(clock: FakeClock, rig: Rig) -> None:
    one = rig.with_version(EMPTY, "m@v1")
    two = rig.with_version(one, "m@v2", stable=True)
    await rig.gateway.apply(two)
    assert await rig.gateway.apply(one) == 2
    assert rig.gateway.route("m", None).key == ("m", "v2")
    await rig.gateway.close()


async def test_the_same_table_twice_keeps_every_lane(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(EMPTY, "m@v1")
    await rig.gateway.apply(table)
    version = rig.gateway.version("m")
    await rig.gateway.apply(table)
    assert rig.gateway.version("m") is version
    await rig.gateway.close()


async def test_until_a_new_version_is_ready_the_old_one_answers(clock: FakeClock, rig: Rig) -> None:
    one = rig.with_version(EMPTY, "m@v1")
    await rig.gateway.apply(one)
    applying = asyncio.create_task(
        rig.gateway.apply(rig.with_version(one, "m@v2", stable=True).without_version("m", "v1"))
    )
    await asyncio.sleep(READY_WAIT_S / 2)
    assert not applying.done()
    assert rig.gateway.route("m", None).key == ("m", "v1")
    assert await rig.ask() == [2, 4]
    await applying
    assert rig.gateway.route("m", None).key == ("m", "v2")
    await rig.gateway.close()


def stable_of(rig: Rig, model: str = "m") -> str | None:
    """The version that answers by default; None if the model doesn't answer."""
    try:
        return rig.gateway.route(model, None).key[1]
    except (ModelNotFound, ReplicaUnavailable):
        return None


def can_be_asked(rig: Rig, *versions: str) -> list[str]:
    found = []
    for version in versions:
        with contextlib.suppress(ModelNotFound, ReplicaUnavailable):
            rig.gateway.route("m", version)
            found.append(version)
    return found


class TestTablesThatOvertakeEachOther:
    async def test_a_rollback_does_not_wait_for_a_version_that_another_table_is_just_bringing(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        table = rig.with_version(rig.with_version(EMPTY, "m@v1"), "m@v2", stable=True)
        await rig.gateway.apply(table)
        digest = table.models["m"].versions["v2"]
        bringing = asyncio.create_task(rig.gateway.apply(table := rig.with_version(table, "n@v1")))
        await asyncio.sleep(READY_WAIT_S / 2)
        at = clock.now
        back = table.without_version("m", "v2", reason="bad", withdraw=True)
        taking_back = asyncio.create_task(rig.gateway.apply(back))
        await asyncio.sleep(0)
        assert (stable_of(rig), can_be_asked(rig, "v1", "v2")) == ("v1", ["v1"])
        assert digest in rig.gateway.table.withdrawn
        assert rig.gateway.table.generation == back.generation
        assert not bringing.done()
        assert not taking_back.done(), "not all of it is in force"
        assert await rig.ask() == [2, 4]
        assert clock.now == at
        assert [await bringing, await taking_back] == [back.generation] * 2
        assert stable_of(rig, "n") == "v1"
        await rig.gateway.close()

    async def test_two_tables_that_bring_the_same_version_build_it_once(self, clock: FakeClock, rig: Rig) -> None:
        one = rig.with_version(EMPTY, "m@v1")
        two = rig.with_version(one, "m@v2")
        applying = [asyncio.create_task(rig.gateway.apply(table)) for table in (one, one, two, one, two)]
        assert await asyncio.gather(*applying) == [2] * 5
        assert {name: len(links) for name, links in rig.links.items()} == {"m@v1": 1, "m@v2": 1}
        await rig.gateway.close()

    async def test_the_same_table_again_is_in_force_only_when_what_it_brings_is(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        table = rig.with_version(EMPTY, "m@v1")
        first = asyncio.create_task(rig.gateway.apply(table))
        await asyncio.sleep(READY_WAIT_S / 2)
        assert not rig.gateway.accepting
        await rig.gateway.apply(table)
        assert (stable_of(rig), rig.gateway.accepting) == ("v1", True)
        await first
        await rig.gateway.close()

    async def test_what_is_no_longer_wanted_before_it_is_built_is_closed(self, clock: FakeClock, rig: Rig) -> None:
        one = rig.with_version(EMPTY, "m@v1")
        await rig.gateway.apply(one)
        two = rig.with_version(one, "m@v2")
        bringing = asyncio.create_task(rig.gateway.apply(two))
        await asyncio.sleep(READY_WAIT_S / 2)
        assert rig.opened == ["m@v1", "m@v2"]
        assert await rig.gateway.apply(two.without_version("m", "v2")) == 3
        await settled()
        assert rig.opened == ["m@v1"]
        assert await bringing == 3
        await rig.gateway.close()

    async def test_what_a_taken_table_brings_joins_when_it_is_there(self, clock: FakeClock, rig: Rig) -> None:
        rig.gateway.take(rig.with_version(EMPTY, "m@v1"))
        assert (stable_of(rig), rig.gateway.accepting) == (None, False)
        await asyncio.sleep(READY_WAIT_S + 1)
        assert (stable_of(rig), rig.gateway.accepting) == ("v1", True)
        await rig.gateway.close()

    async def test_closing_does_not_wait_for_what_is_being_built(self, clock: FakeClock, rig: Rig) -> None:
        applying = asyncio.create_task(rig.gateway.apply(rig.with_version(EMPTY, "m@v1")))
        await asyncio.sleep(READY_WAIT_S / 2)
        at = clock.now
        await rig.gateway.close()
        assert (rig.opened, rig.gateway.versions, clock.now) == ([], [], at)
        await applying
        await rig.gateway.apply(rig.with_version(EMPTY, "n@v1"))
        assert (rig.opened, rig.gateway.versions) == ([], [])

    async def test_a_new_stable_version_that_cannot_be_linked_leaves_the_old_one_answering(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        one = rig.with_version(EMPTY, "m@v1")
        await rig.gateway.apply(one)
        two = rig.with_version(one, "m@v2", stable=True).without_version("m", "v1")
        rig.broken.add("m@v2")
        assert await rig.gateway.apply(two) == two.generation
        assert (stable_of(rig), await rig.ask()) == ("v1", [2, 4])
        rig.broken.clear()
        await rig.gateway.apply(two)
        assert (stable_of(rig), can_be_asked(rig, "v1", "v2")) == ("v2", ["v2"])
        await asyncio.sleep(1)
        assert rig.opened == ["m@v2"]
        await rig.gateway.close()

    async def test_an_old_version_that_is_withdrawn_answers_nothing_even_if_nobody_else_can_yet(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        one = rig.with_version(EMPTY, "m@v1")
        await rig.gateway.apply(one)
        two = rig.with_version(one, "m@v2", stable=True).without_version("m", "v1", withdraw=True)
        applying = asyncio.create_task(rig.gateway.apply(two))
        await asyncio.sleep(0)
        assert (stable_of(rig), can_be_asked(rig, "v1", "v2")) == (None, [])
        await applying
        assert stable_of(rig) == "v2"
        await rig.gateway.close()

    async def test_what_the_table_drops_gets_nothing_while_its_new_stable_version_is_waited_for(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        one = rig.with_version(rig.with_version(EMPTY, "m@v1"), "m@v3")
        await rig.gateway.apply(one := one.with_split("m", split_to("v3")))
        two = rig.with_version(one, "m@v2", stable=True).without_version("m", "v3").without_version("m", "v1")
        applying = asyncio.create_task(rig.gateway.apply(two))
        await asyncio.sleep(0)
        assert (stable_of(rig), can_be_asked(rig, "v1", "v2", "v3")) == ("v1", ["v1"])
        assert (rig.gateway.split_of("m"), rig.gateway.route("m", None).canary) == (None, None)
        await applying
        assert (stable_of(rig), can_be_asked(rig, "v1", "v2", "v3")) == ("v2", ["v2"])
        await rig.gateway.close()

    async def test_new_content_of_a_version_takes_over_when_it_is_ready(self, clock: FakeClock, rig: Rig) -> None:
        one = rig.with_version(EMPTY, "m@v1")
        await rig.gateway.apply(one)
        old = rig.gateway.version("m")
        applying = asyncio.create_task(rig.gateway.apply(one.with_version("m", "v1", "sha256:other")))
        await asyncio.sleep(READY_WAIT_S / 2)
        assert rig.gateway.version("m") is old
        await applying
        assert rig.gateway.version("m").digest == "sha256:other"
        await rig.gateway.close()

    async def test_a_model_that_leaves_the_table_falls_back_from_that_moment_on(
        self, clock: FakeClock, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        chain = (UseStatic(outputs={"y": [0.0, 0.0]}),)
        settings = Settings(models=(ModelSettings(name="m", versions=("v1",), fallback=chain),))
        rig = Rig(clock, Registry(tmp_path_factory.mktemp("store")), settings)
        table = rig.with_version(EMPTY, "m@v1")
        await rig.gateway.apply(table)
        applying = asyncio.create_task(rig.gateway.apply(table.without_version("m", "v1")))
        await asyncio.sleep(0)
        assert rig.gateway.route("m", None).served is None
        await applying
        await rig.gateway.close()

    @pytest.mark.parametrize("seed", range(150))
    async def test_in_the_end_the_newest_table_is_in_force_and_exactly_its_versions_are_open(
        self, seed: int, clock: FakeClock, rig: Rig
    ) -> None:
        chance = Random(seed)
        for name in ("m@v1", "m@v2", "m@v3", "n@v1"):
            rig.manifest(*name.split("@"))
        rig.delay_s = lambda name: chance.choice((0.0, 0.1, 3.0, 8.0))
        table, tables, newest = EMPTY, [EMPTY], EMPTY
        applying, asked_for = [], []
        for _ in range(chance.randrange(1, 12)):
            table = another_table(table, chance)
            tables.append(table)
            given = chance.choice((table, table, table, chance.choice(tables)))
            asked_for.append(given.generation)
            newest = max(newest, given, key=lambda one: one.generation)
            rig.broken = {name for name in ("m@v2", "m@v3") if chance.random() < 0.2}
            applying.append(asyncio.create_task(applied(rig, given)))
            await asyncio.sleep(0)
            routed_rightly(rig, newest)
            await asyncio.sleep(chance.choice((0.0, 0.05, 2.0, 7.0)))
            routed_rightly(rig, newest)
        for generation, asked in zip(await asyncio.gather(*applying), asked_for, strict=True):
            assert generation >= asked
        rig.broken = set()
        assert await rig.gateway.apply(newest) == newest.generation
        assert rig.gateway.table == newest
        built = {(one.served.model, one.served.version): one.digest for one in rig.gateway.versions}
        assert built == dict(loaded(newest))
        await asyncio.sleep(11)
        assert rig.opened == sorted(f"{model}@{version}" for model, version in loaded(newest))
        await rig.gateway.close()
        assert rig.opened == []


def another_table(table: RoutingTable, chance: Random) -> RoutingTable:
    model, version = chance.choice((("m", "v1"), ("m", "v2"), ("m", "v3"), ("n", "v1")))
    route = table.models.get(model)
    if route is None or version not in route.versions or chance.random() < 0.2:
        digest = f"sha256:{model}{version}{chance.choice('aab')}"
        return table.with_version(model, version, digest, stable=chance.random() < 0.5, still_withdrawn=True)
    if chance.random() < 0.3 and version != route.stable:
        return table.with_split(model, split_to(version, epoch=f"r{table.generation}"))
    if chance.random() < 0.3:
        return table.with_stable(model, version)
    return table.without_version(model, version, withdraw=chance.random() < 0.5)


async def applied(rig: Rig, table: RoutingTable) -> int:
    """The generation that is in force then. By that, all versions must be there, but for those that can't be linked."""
    generation = await rig.gateway.apply(table)
    newest = rig.gateway._newest
    assert newest is not None
    assert newest.generation == generation
    here = {(one.served.model, one.served.version, one.digest) for one in rig.gateway.versions}
    missing = {(*name, digest) for name, digest in loaded(newest).items()} - here
    assert {(model, version) for model, version, _ in missing} <= {("m", "v2"), ("m", "v3")}
    return generation


def routed_rightly(rig: Rig, newest: RoutingTable) -> None:
    """Nothing is routed to but what the newest table has, and stable versions whose successors aren't there yet."""
    gateway = rig.gateway
    assert gateway.table.generation == newest.generation
    assert gateway.table.withdrawn == newest.withdrawn
    assert gateway.table.models.keys() == newest.models.keys()
    here = {(one.served.model, one.served.version): one.digest for one in gateway.versions}
    for name, digest in here.items():
        model, version = name
        route = newest.models[model]
        if route.versions.get(version) != digest:
            assert gateway.table.models[model].stable == version
            assert digest not in newest.withdrawn
            assert here.get((model, route.stable)) != route.versions[route.stable]
    for model, route in newest.models.items():
        if here.get((model, route.stable)) == route.versions[route.stable]:
            assert stable_of(rig, model) == route.stable
            assert gateway.table.models[model] == route


async def test_a_version_is_ready_when_a_channel_to_a_replica_is_open_and_then_needs_no_handle(
    socket_dir: Path, tmp_path: Path
) -> None:
    class Listed(FakeLink):
        def watch(self, on_replicas: Callable[[Mapping[str, Address]], None]) -> None:
            on_replicas({"r1": address})

    async def link_to(model: str, version: str) -> FakeLink:
        return link

    clock = SystemClock()
    runner = ModelRunner(lambda inputs: [inputs["x"] * np.float32(2)], DOUBLE, clock=clock, max_waiting=9)
    server = TensorServer(runner, hello=Hello(PROTOCOL_VERSION), clock=clock, max_frame_bytes=LIMIT)
    address = await server.start(UnixAddress(str(socket_dir / "r1.sock")))
    link = Listed(FakeClock())
    registry = Registry(tmp_path)
    gateway = Gateway(Settings(), link=link_to, read_manifest=registry.manifest, clock=clock)
    await gateway.apply(EMPTY.with_version("m", "v1", publish_version(registry, "m", "v1").digest))
    assert gateway.version("m").lane.live_channels == 1
    pending = gateway.version("m").lane.submit(request_of(1), clock.monotonic() + 60)
    assert values_of(await pending.answer) == [2]
    assert link.calls == 0
    await gateway.close()
    await server.close()
    runner.close()


async def test_a_version_that_goes_finishes_what_it_has(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(EMPTY, "m@v1")
    await rig.gateway.apply(table)
    link = rig.link("m@v1")
    link.gate.clear()
    asking = [asyncio.create_task(rig.ask()) for _ in range(3)]
    await settled()
    await rig.gateway.apply(table.without_version("m", "v1"))
    with pytest.raises(ModelNotFound):
        rig.gateway.route("m", None)
    await settled(50)
    assert rig.closed == []
    link.gate.set()
    assert [await each for each in asking] == [[2, 4]] * 3
    await asyncio.sleep(1)
    assert rig.closed == ["m@v1"]
    await rig.gateway.close()


async def test_a_version_that_goes_and_never_answers_is_given_up_in_the_end(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(EMPTY, "m@v1")
    await rig.gateway.apply(table)
    rig.link("m@v1").gate.clear()
    asking = asyncio.create_task(rig.ask())
    await settled()
    started = clock.now
    await rig.gateway.apply(table.without_version("m", "v1"))
    with pytest.raises(ReplicaLost):
        await asking
    assert clock.now - started == pytest.approx(10, abs=0.1)
    assert rig.link("m@v1").closed
    await settled()
    await rig.gateway.close()


async def test_a_version_whose_content_changed_is_linked_anew(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(EMPTY, "m@v1")
    await rig.gateway.apply(table)
    await rig.gateway.apply(table.with_version("m", "v1", "sha256:other"))
    assert len(rig.links["m@v1"]) == 2
    await asyncio.sleep(1)
    assert [link.closed for link in rig.links["m@v1"]] == [True, False]
    await rig.gateway.close()


async def test_a_version_that_cannot_be_linked_does_not_keep_the_others_back(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(rig.with_version(EMPTY, "m@v1"), "n@v1")
    rig.broken.add("n@v1")
    await rig.gateway.apply(table)
    assert await rig.ask() == [2, 4]
    assert rig.gateway.ready
    with pytest.raises(ReplicaUnavailable, match="isn't up here yet"):
        rig.gateway.route("n", None)
    rig.broken.clear()
    await rig.gateway.apply(table)
    assert await rig.ask("n") == [2, 4]
    await rig.gateway.close()


async def test_a_version_that_the_store_lost_does_not_keep_the_others_back(clock: FakeClock, rig: Rig) -> None:
    table = rig.with_version(EMPTY, "m@v1").with_version("m", "v7", "sha256:7", stable=True)
    await rig.gateway.apply(table)
    assert await rig.ask(version="v1") == [2, 4]
    assert not rig.gateway.ready, "the version that answers by default can't"
    await rig.gateway.close()


async def test_it_is_ready_as_long_as_the_stable_version_of_any_model_can_answer(clock: FakeClock, rig: Rig) -> None:
    await rig.gateway.apply(rig.with_version(rig.with_version(EMPTY, "m@v1"), "n@v1"))
    rig.link("m@v1").replicas = 0
    before = rig.gateway.ready
    rig.link("n@v1").replicas = 0
    assert (before, rig.gateway.ready) == (True, False)
    await rig.gateway.close()


async def test_while_it_drains_it_answers_but_wants_no_more(clock: FakeClock, rig: Rig) -> None:
    await rig.gateway.apply(rig.with_version(EMPTY, "m@v1"))
    rig.gateway.draining = True
    assert (rig.gateway.ready, rig.gateway.accepting) == (False, False)
    assert await rig.ask() == [2, 4]
    await rig.gateway.close()


async def test_closing_ends_every_version_and_leaves_nothing(clock: FakeClock, rig: Rig) -> None:
    await rig.gateway.apply(rig.with_version(rig.with_version(EMPTY, "m@v1"), "n@v1"))
    link = rig.link("m@v1")
    link.gate.clear()
    asking = asyncio.create_task(rig.ask())
    await settled()
    await rig.gateway.close()
    with pytest.raises(ReplicaLost):
        await asking
    assert link.closed
    assert rig.link("n@v1").closed
    assert (rig.gateway.versions, rig.gateway.ready) == ([], False)


async def test_word_of_replicas_that_comes_too_late_starts_nothing(clock: FakeClock, rig: Rig) -> None:
    await rig.gateway.apply(rig.with_version(EMPTY, "m@v1"))
    on_replicas = rig.link("m@v1").on_replicas
    assert on_replicas is not None
    await rig.gateway.close()
    on_replicas({"r1": UnixAddress("/nowhere")})
    await settled()


async def test_a_model_is_served_as_its_settings_say(
    clock: FakeClock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(models=(ModelSettings(name="m", versions=("v1",), timeout_ms=1500, max_waiting=1),))
    rig = Rig(clock, Registry(tmp_path_factory.mktemp("store")), settings)
    await rig.gateway.apply(rig.with_version(rig.with_version(EMPTY, "m@v1"), "n@v1"))
    assert (rig.gateway.route("m", None).timeout_s, rig.gateway.route("n", None).timeout_s) == (1.5, 10)
    rig.link("m@v1").gate.clear()
    asking = [asyncio.create_task(rig.ask()) for _ in range(2)]
    await settled()
    with pytest.raises(ReplicaUnavailable, match="1 requests wait"):
        await rig.ask()
    rig.link("m@v1").gate.set()
    await asyncio.gather(*asking)
    await rig.gateway.close()


def split_to(version: str = "v2", weight: float = 0.5, epoch: str = "r1") -> Split:
    return Split(version=version, weight=weight, epoch=epoch)


def outcomes_of(rig: Rig) -> SplitOutcomes:
    outcomes = rig.gateway.collect_outcomes("m")
    assert outcomes is not None
    return outcomes


class TestCanaries:
    def two(self, rig: Rig) -> RoutingTable:
        return rig.with_version(rig.with_version(EMPTY, "m@v1"), "m@v2")

    async def infer(self, rig: Rig, version: str | None = None) -> str:
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        pipeline = Pipeline(rig.gateway, RequestRecorder((1.0,)), clock=rig.clock)
        return (await pipeline.infer(InferCall("m", version, json.dumps(body).encode()))).given.version

    async def test_by_a_table_with_a_split_the_canary_gets_its_share_and_each_is_counted(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        table = self.two(rig).with_split("m", split_to(weight=1.0))
        assert await rig.gateway.apply(table) == table.generation
        assert [await self.infer(rig), await self.infer(rig, "v1")] == ["v2", "v1"]
        assert await rig.gateway.apply(table.with_split("m", split_to(weight=0.0))) == table.generation + 1
        assert await self.infer(rig) == "v1"
        outcomes = outcomes_of(rig)
        assert outcomes.weights == (AtWeight(0.0, Counted(), Counted(1)), AtWeight(1.0, Counted(1), Counted()))
        assert (outcomes.epoch, outcomes.canary, outcomes.stable) == ("r1", "v2", "v1")
        assert (outcomes.weight, outcomes.ended, outcomes.fault) == (0.0, False, "")
        await rig.gateway.close()

    async def test_it_tells_all_that_was_counted_of_the_models_that_are_asked_for(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        table = rig.with_version(self.two(rig), "n@v1").with_split("m", split_to(weight=1.0))
        await rig.gateway.apply(table := table.with_mirror("m", "v2", 1.0))
        ledger = rig.gateway._canaries._ledgers["m"]
        for key in (7, 8):
            ledger.bad(ledger.at(1.0)[0], "failed", key)
        nothing = rig.gateway.rollout_outcomes(Asked({"n": {}}))
        assert (nothing.outcomes, nothing.mirrors, nothing.generation) == ((), (), table.generation)
        name = nothing.gateway
        for keys_from, marks in (({}, [7, 8]), ({name: 1, "another": 2}, [8]), ({name: 2}, [])):
            asked = asked_from_json(asked_to_json(Asked({"m": keys_from, "n": {}})))
            answer = collected_from_json(collected_to_json(rig.gateway.rollout_outcomes(asked)))
            [outcomes] = answer.outcomes
            assert [key.mark for key in outcomes.bad_keys] == marks
            assert (outcomes.gateway, outcomes.started) == (answer.gateway, answer.started) == (name, nothing.started)
            assert [(one.model, one.shadow) for one in answer.mirrors] == [("m", "m@v2")]
        await rig.gateway.close()

    async def test_a_model_without_one_has_nothing_to_tell(self, clock: FakeClock, rig: Rig) -> None:
        await rig.gateway.apply(self.two(rig))
        assert rig.gateway.route("m", None).canary is None
        assert rig.gateway.collect_outcomes("m") is None
        await rig.gateway.close()

    async def test_counts_stay_when_it_ends_and_begin_anew_with_another_one(self, clock: FakeClock, rig: Rig) -> None:
        table = self.two(rig).with_split("m", split_to(weight=1.0))
        await rig.gateway.apply(table)
        await self.infer(rig)
        await rig.gateway.apply(table := table.with_split("m", None))
        assert await self.infer(rig) == "v1"
        outcomes = outcomes_of(rig)
        assert (outcomes.ended, outcomes.weight, outcomes.weights[0].canary) == (True, 0.0, Counted(1))
        await rig.gateway.apply(table.with_split("m", split_to(weight=1.0, epoch="r2")))
        outcomes = outcomes_of(rig)
        assert (outcomes.ended, outcomes.epoch, outcomes.weights[0].canary) == (False, "r2", Counted())
        await rig.gateway.close()

    async def test_a_promoted_canary_is_stable_and_no_longer_compared(self, clock: FakeClock, rig: Rig) -> None:
        table = self.two(rig).with_split("m", split_to(weight=1.0))
        await rig.gateway.apply(table)
        await rig.gateway.apply(table.with_stable("m", "v2"))
        assert [await self.infer(rig), await self.infer(rig, "v1")] == ["v2", "v1"]
        assert (outcomes_of(rig).ended, outcomes_of(rig).weights[0].canary) == (True, Counted())
        await rig.gateway.close()

    async def test_a_canary_that_cannot_be_linked_gets_nothing_until_it_can(self, clock: FakeClock, rig: Rig) -> None:
        table = self.two(rig).with_split("m", split_to(weight=1.0))
        rig.broken.add("m@v2")
        await rig.gateway.apply(table)
        assert await self.infer(rig) == "v1"
        assert (outcomes_of(rig).weight, outcomes_of(rig).fault) == (0.0, "it isn't loaded in this gateway")
        rig.broken.clear()
        await rig.gateway.apply(table)
        assert await self.infer(rig) == "v2"
        assert (outcomes_of(rig).weight, outcomes_of(rig).fault) == (1.0, "")
        await rig.gateway.close()

    async def test_a_canary_that_speaks_otherwise_than_stable_gets_nothing(self, clock: FakeClock, rig: Rig) -> None:
        other = Signature((TensorSpec("z", "FP32", (-1, 2)),), DOUBLE.outputs, batched=True)
        digest = publish_version(rig.registry, "m", "v2", signature=other).digest
        table = rig.with_version(EMPTY, "m@v1").with_version("m", "v2", digest)
        await rig.gateway.apply(table.with_split("m", split_to(weight=1.0)))
        assert await self.infer(rig) == "v1"
        assert outcomes_of(rig).fault == "it can't answer for m@v1: its inputs have other names or another order"
        await rig.gateway.close()

    async def test_a_canary_is_taken_back_at_once_even_while_another_version_is_waited_for(
        self, clock: FakeClock, rig: Rig
    ) -> None:
        table = self.two(rig).with_split("m", split_to(weight=1.0))
        await rig.gateway.apply(table)
        loading = asyncio.create_task(rig.gateway.apply(rig.with_version(table, "n@v1")))
        await asyncio.sleep(READY_WAIT_S / 2)
        back = rig.with_version(table, "n@v1").with_split("m", None)
        taking_back = asyncio.create_task(rig.gateway.apply(back))
        await settled()
        assert not loading.done()
        assert await self.infer(rig) == "v1"
        assert (outcomes_of(rig).weight, outcomes_of(rig).ended) == (0.0, True)
        await loading
        assert await self.infer(rig) == "v1"  # by a table that has the split, but isn't the newest that is known
        assert await taking_back == back.generation
        again = back.with_split("m", split_to(weight=1.0))
        await rig.gateway.apply(again)
        assert await self.infer(rig) == "v2"
        await rig.gateway.close()

    async def test_an_older_table_takes_nothing_back(self, clock: FakeClock, rig: Rig) -> None:
        table = self.two(rig)
        await rig.gateway.apply(table.with_split("m", split_to(weight=1.0)))
        await rig.gateway.apply(table)
        assert await self.infer(rig) == "v2"
        await rig.gateway.close()

    async def test_a_collector_can_tell_gateways_and_their_restarts_apart(self, clock: FakeClock, rig: Rig) -> None:
        table = self.two(rig).with_split("m", split_to())
        seen = []
        for name in (None, None, "g1"):
            gateway = Gateway(Settings(), link=rig._link, read_manifest=rig.registry.manifest, clock=clock, name=name)
            await gateway.apply(table)
            outcomes = gateway.collect_outcomes("m")
            assert outcomes is not None
            seen.append((outcomes.gateway, outcomes.started))
            await gateway.close()
        assert len(set(seen)) == 3
        assert seen[2][0] == "g1"
        assert [started for _, started in seen] == sorted({started for _, started in seen})

    async def test_who_waits_to_be_let_in_is_reported_to_both_by_their_shares(self, clock: FakeClock, rig: Rig) -> None:
        await rig.gateway.apply(self.two(rig).with_split("m", split_to(weight=0.25)))
        admission = rig.gateway.route("m", None).admission
        permits = [admission.try_admit(2, clock.now + 9) for _ in range(admission.limit)]
        waiting = [asyncio.create_task(admission.admit(2, clock.now + 9)) for _ in range(8)]
        await settled()
        lanes = {found.served.version: found.lane for found in rig.gateway.versions}
        assert (lanes["v1"].waiting_elsewhere(), lanes["v2"].waiting_elsewhere()) == (6, 2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        for permit in permits:
            assert permit is not None
            permit.ignored()
        await rig.gateway.close()
