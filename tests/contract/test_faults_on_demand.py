"""Each fault that a replica can be told to have does what it says to whoever sends it work, over real sockets.

The clock is a fake one, so what is slow takes no time here; what happens on the loop's own timers does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from models.inference import Array
from serving.channel.address import Address
from serving.channel.client import ChannelClient
from serving.channel.faults import HANG_S, Command, Fault, Report
from serving.channel.injector import FaultyConnection, Injector
from serving.channel.server import Connection
from serving.errors import ModelFailed, ReplicaLost, ReplicaUnavailable
from tests.contract.test_replica_client import LIMIT, SECRET, Way, World, address_of, dial, ending, world_of
from tests.fakes import DOUBLE, settled, values_of

ME = "r1"
LOSSES: tuple[Literal["cut", "garble"], ...] = ("cut", "garble")


class Sleeper:
    """Sleeps by moving the clock, or, held, until it is let go; ``slept`` is by thread."""

    def __init__(self, world: World) -> None:
        self.slept: dict[str, float] = {}
        self.asleep = asyncio.Event()
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._may_wake = threading.Event()
        self._may_wake.set()

    def __call__(self, seconds: float) -> None:
        name = threading.current_thread().name
        self.slept[name] = self.slept.get(name, 0.0) + seconds
        self._loop.call_soon_threadsafe(self.asleep.set)
        assert self._may_wake.wait(20), "nobody let it go"
        self._world.clock.advance(seconds)

    def hold(self) -> None:
        self._may_wake.clear()

    def let_go(self) -> None:
        self._may_wake.set()


class Faulty:
    """A replica that can be told to fail, and a client that leads there."""

    def __init__(self, world: World, *, number: int = 0) -> None:
        self.world = world
        self.sleeper = Sleeper(world)
        self.left = asyncio.Event()
        self.injector = Injector(
            ME, DOUBLE, clock=world.clock, number=lambda: number, sleep=self.sleeper, leave=self.left.set
        )

    def command(self, replica: str | None = ME, fault: Fault | None = None) -> Report:
        raw = msgspec.json.encode(Command(replica=replica, fault=fault))
        return msgspec.json.decode(self.injector.obey(raw), type=Report)

    def cause(self, **fields: Any) -> Report:
        return self.command(fault=Fault(**fields))

    def end(self) -> None:
        self.command()

    async def ask(self, *values: float) -> list[float]:
        answer = await ending(self.world.client.submit(self.world.work(values or (1,))))
        return values_of(answer.outputs)

    async def outcomes(self, count: int) -> str:
        """An ``x`` for every run that failed, a dot for every other."""
        marks = []
        for _ in range(count):
            with contextlib.suppress(ModelFailed):
                await self.ask()
                marks.append(".")
                continue
            marks.append("x")
        return "".join(marks)


@contextlib.asynccontextmanager
async def faulty_of(way: Way, folder: Path, *, number: int = 0) -> AsyncIterator[Faulty]:
    """Connections that are dialled from now on can be hurt, too; the first one is dialled anew."""
    async with world_of(way, folder) as world:
        faulty = Faulty(world, number=number)
        if way == "handle":
            world.runner.wrap(faulty.injector._around, world.runner._pace)
            faulty.injector._runner = world.runner
        else:
            faulty.injector.install(world.runner, world.server)
            await world.client.close()
            world.client = await dial(world, address_of(world, folder))
        yield faulty
        faulty.sleeper.let_go()
        faulty.injector.close()
        await asyncio.gather(*faulty.injector._hanging)


@pytest.fixture(params=["unix", "handle"])
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


class TestEveryWay:
    async def test_without_a_fault_all_is_well(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            assert await faulty.ask(1, 2) == [2, 4]
            assert faulty.command(replica=None) == Report(replica=ME, meant=False)

    async def test_runs_fail_before_they_reach_the_model_until_told_otherwise(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            assert faulty.cause(fail_rate=1) == Report(replica=ME, meant=True, fault=Fault(fail_rate=1))
            with pytest.raises(ModelFailed, match="a fault on demand"):
                await faulty.ask()
            assert faulty.world.model.seen == []
            faulty.end()
            assert await faulty.ask() == [2]

    async def test_the_same_seed_fails_the_same_runs_and_replicas_differ(self, way: Way, socket_dir: Path) -> None:
        seen = []
        for number, seed in ((0, 7), (0, 7), (1, 7), (0, 8)):
            async with faulty_of(way, socket_dir, number=number) as faulty:
                faulty.cause(fail_rate=0.4, seed=seed)
                seen.append(await faulty.outcomes(40))
        assert seen[0] == seen[1]
        assert len(set(seen)) == 3
        assert 6 < seen[0].count("x") < 26

    async def test_nan_and_wrong_shapes_come_as_answers(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(nan_rate=1)
            assert np.isnan(await faulty.ask(1, 2)).all()
            faulty.cause(wrong_shape_rate=1)
            answer = await ending(faulty.world.client.submit(faulty.world.work([1, 2])))
            assert answer.outputs[0].shape == (2, 2, 1)

    async def test_what_leaks_is_held_for_good_and_answers_are_as_ever(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(leak_kib_per_run=64)
            assert [await faulty.ask(), await faulty.ask()] == [[2], [2]]
            faulty.end()
            await faulty.ask()
            assert faulty.injector.leaked_bytes == 2 * 64 * 1024

    async def test_slowness_is_the_models_own_time(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            for fault, rows, seconds in (
                (Fault(slow_ms=200), 3, 0.2),
                (Fault(slow_ms_per_row=50), 3, 0.15),
                (Fault(slow_factor=10), 3, 5.0),
            ):
                faulty.command(fault=fault)

                def model(x: Array, s: float = 0.5 if fault.slow_factor > 1 else 0.0) -> Array:
                    faulty.world.clock.advance(s)
                    return x

                faulty.world.model.output = model
                answer = await ending(faulty.world.client.submit(faulty.world.work([1.0] * rows)))
                assert answer.compute_s == pytest.approx(seconds, abs=1e-5)
            assert set(faulty.sleeper.slept) == {"model"}

    async def test_a_command_for_another_replica_changes_nothing(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(nan_rate=1, for_s=30)
            faulty.world.clock.advance(10)
            report = faulty.command(replica="r2", fault=Fault(fail_rate=1))
            assert (report.meant, report.fault, report.left_s) == (False, Fault(nan_rate=1, for_s=30), 20)
            assert faulty.command(replica="all") == Report(replica=ME, meant=True)
            assert await faulty.ask() == [2]

    async def test_a_new_fault_takes_the_place_of_the_old_one(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(fail_rate=1, for_s=0.01)
            faulty.cause(nan_rate=1)
            await asyncio.sleep(0.03)  # the first one's end is past, and doesn't end the second
            assert np.isnan(await faulty.ask()).all()

    async def test_a_fault_ends_by_itself(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(fail_rate=1, for_s=0.05)
            with pytest.raises(ModelFailed):
                await faulty.ask()
            await until(lambda: faulty.injector.fault is None)
            assert await faulty.ask() == [2]

    async def test_a_model_that_hangs_hangs_the_self_test_too_until_the_fault_is_ended(
        self, way: Way, socket_dir: Path
    ) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.sleeper.hold()
            faulty.cause(hang="model", for_s=3600)
            await faulty.sleeper.asleep.wait()
            faulty.world.clock.advance(7)
            assert faulty.world.runner.running_s == 7
            self_test = asyncio.create_task(faulty.world.runner.call(lambda: None))
            answer = asyncio.create_task(faulty.ask())
            await faulty.world.until_queued(1)
            await settled()
            assert not answer.done()
            assert not self_test.done()
            if isinstance(faulty.world.client, ChannelClient):
                assert (await faulty.world.client.ping(10)).waiting == 1
            faulty.end()
            faulty.sleeper.let_go()
            await self_test
            assert sum(faulty.sleeper.slept.values()) < 1, "it ends with the fault, not with its time"
            assert await answer == [2]

    async def test_a_loop_hangs_after_it_has_answered_and_not_for_ever(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(hang="loop")
            assert await faulty.ask() == [2]
            async with asyncio.timeout(10):
                await faulty.sleeper.asleep.wait()
            assert faulty.sleeper.slept == {threading.main_thread().name: pytest.approx(HANG_S)}
            assert await faulty.ask() == [2]

    async def test_a_process_ends_after_it_has_answered(self, way: Way, socket_dir: Path) -> None:
        async with faulty_of(way, socket_dir) as faulty:
            faulty.cause(exit=True)
            assert await faulty.ask() == [2]
            assert not faulty.left.is_set()
            async with asyncio.timeout(10):
                await faulty.left.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


async def dial_soon(address: Address, world: World) -> ChannelClient:
    """As a gateway does that won't wait long."""
    return await ChannelClient.connect(
        ME,
        address,
        clock=world.clock,
        max_frame_bytes=LIMIT,
        timeout_s=0.05,
        on_change=lambda _: world.changed(),
        secret=SECRET,
    )


class TestTheChannel:
    @pytest.mark.parametrize(
        ("what", "said"),
        [("cut", "closed the tensor channel|reset"), ("garble", "doesn't speak the tensor channel's frames")],
    )
    async def test_a_batch_is_lost_with_its_connection(
        self, socket_dir: Path, what: Literal["cut", "garble"], said: str
    ) -> None:
        async with faulty_of("unix", socket_dir) as faulty:
            world = faulty.world
            assert isinstance(world.client, ChannelClient)
            faulty.cause(channel=what)
            await world.client.ping(10)  # nothing has happened yet
            answers = [world.client.submit(world.work([n])) for n in range(3)]
            for answer in answers:
                with pytest.raises(ReplicaLost, match=said):
                    await ending(answer)
            assert (world.client.live, world.model.seen) == (False, [])
            world.client = await dial(world, address_of(world, socket_dir))
            with pytest.raises(ReplicaLost):
                await faulty.ask()
            faulty.end()
            world.client = await dial(world, address_of(world, socket_dir))
            assert await faulty.ask() == [2]

    async def test_what_comes_behind_a_lost_batch_is_lost_with_it_however_it_arrived(self, socket_dir: Path) -> None:
        """Else one seed would mean one thing or another, depending on how many frames a read brings."""
        seed = next(seed for seed in range(100) if random.Random(f"{seed}/0/frames").random() < 0.5)
        for what in LOSSES:
            async with faulty_of("unix", socket_dir) as faulty:
                faulty.command(fault=Fault(channel=what, channel_rate=0.5, seed=seed))
                answers = [faulty.world.client.submit(faulty.world.work([n])) for n in range(10)]
                for answer in answers:
                    with pytest.raises(ReplicaLost):
                        await ending(answer)
                assert faulty.world.model.seen == []
                assert faulty.injector._plan is not None
                drawn = random.Random(f"{seed}/0/frames")
                drawn.random()
                assert faulty.injector._plan.frames.random() == drawn.random(), "one draw was made"

    async def test_a_stalled_channel_answers_nothing_and_then_everything(self, socket_dir: Path) -> None:
        async with faulty_of("unix", socket_dir) as faulty:
            world = faulty.world
            assert isinstance(world.client, ChannelClient)
            faulty.cause(channel="stall")
            answer = world.client.submit(world.work([1]))
            with pytest.raises(ReplicaLost, match="hasn't answered a ping"):
                await world.client.ping(0.05)
            with pytest.raises(ReplicaUnavailable, match="timed out"):
                await dial_soon(address_of(world, socket_dir), world)
            assert (answer.done(), world.model.seen) == (False, [])
            faulty.end()
            assert values_of((await ending(answer)).outputs) == [2]
            await world.client.ping(10)

    async def test_a_stall_ends_by_itself_and_leaves_no_connection_behind(self, socket_dir: Path) -> None:
        async with faulty_of("unix", socket_dir) as faulty:
            faulty.cause(channel="stall", for_s=0.05)
            assert await faulty.ask() == [2]
            faulty.cause(channel="stall")
            with pytest.raises(ReplicaUnavailable):
                await dial_soon(address_of(faulty.world, socket_dir), faulty.world)
            await until(lambda: not faulty.injector._stalled)

    async def test_the_share_of_batches_that_are_hit_is_drawn_by_the_seed(self, socket_dir: Path) -> None:
        seen = []
        for _ in range(2):
            async with faulty_of("unix", socket_dir) as faulty:
                faulty.cause(channel="cut", channel_rate=0.5, seed=3)
                marks = ""
                for _ in range(20):
                    if not faulty.world.client.live:
                        faulty.world.client = await dial(faulty.world, address_of(faulty.world, socket_dir))
                    try:
                        await faulty.ask()
                        marks += "."
                    except ReplicaLost:
                        marks += "x"
                seen.append(marks)
        assert seen[0] == seen[1]
        assert 3 < seen[0].count("x") < 17

    async def test_a_model_that_was_quick_sleeps_on_its_thread_not_on_the_loop(self, socket_dir: Path) -> None:
        async with faulty_of("unix", socket_dir) as faulty:
            threads = []

            def spying(x: Array) -> Array:
                threads.append(threading.current_thread().name)
                return x

            faulty.world.model.output = spying
            for _ in range(40):
                await faulty.ask()
            assert threads[-1] == threading.main_thread().name
            faulty.cause(slow_ms=5)
            for _ in range(40):
                await faulty.ask()
            assert set(threads[40:]) == set(faulty.sleeper.slept) == {"model"}

    async def test_where_faults_are_not_allowed_nothing_is_in_between(self, socket_dir: Path) -> None:
        async with world_of("unix", socket_dir) as world:
            assert world.runner._run == world.model.run
            assert world.server.connection is Connection
            assert not any(isinstance(each, FaultyConnection) for each in world.server._connections)
