"""What every ``ReplicaClient`` promises: over a Unix socket, over TCP, and through the Serve handle.

Below: what only a connection, a handle, or the runner behind them can promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from models.inference import Array, Tensor
from models.signature import Signature, TensorSpec
from serving.channel.address import Address, TcpAddress, UnixAddress
from serving.channel.client import ChannelClient
from serving.channel.frames import MAGIC, PREFIX, Kind, frame_head
from serving.channel.handle import HandleClient, answer_call
from serving.channel.messages import (
    PROTOCOL_VERSION,
    GoodbyeHead,
    Hello,
    InferHead,
    PingHead,
    ResultHead,
    TensorHead,
    small_frame,
)
from serving.channel.runner import Job, ModelRunner, Outcome
from serving.channel.server import TensorServer
from serving.channel.work import Answer, ReplicaClient, Work
from serving.errors import (
    AttemptError,
    DeadlineExceeded,
    Internal,
    InvalidAnswer,
    ModelFailed,
    PayloadTooLarge,
    ReplicaLost,
    ReplicaUnavailable,
)
from tests.fakes import DOUBLE, FakeClock, HeldModel, ScriptedReplica, scripted, settled, values_of, work_of

Way = Literal["unix", "tcp", "handle"]

SECRET = "between us"
FOREVER = 3600.0
LIMIT = 1 << 20


class World:
    """A model, its runner, and a client that leads there."""

    def __init__(self, *, max_waiting: int = 100) -> None:
        self.clock = FakeClock()
        self.model = HeldModel()
        self.runner = ModelRunner(self.model.run, DOUBLE, clock=self.clock, max_waiting=max_waiting)
        self.changes = asyncio.Event()
        self.available = True
        self.client: ReplicaClient
        self.server: TensorServer

    def changed(self) -> None:
        self.changes.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the client tells of."""
        async with asyncio.timeout(10):
            while not condition():
                self.changes.clear()
                await self.changes.wait()

    async def until_queued(self, jobs: int) -> None:
        """Wait until as many jobs have arrived at the runner."""
        async with asyncio.timeout(10):
            while self.runner.unfinished < jobs:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0)

    def work(self, *requests: Sequence[float], within: float = FOREVER) -> Work:
        return work_of(*requests, deadline=self.clock.now + within)


async def dial(world: World, address: Address, secret: str = SECRET, max_frame_bytes: int = LIMIT) -> ChannelClient:
    return await ChannelClient.connect(
        "r1",
        address,
        clock=world.clock,
        max_frame_bytes=max_frame_bytes,
        timeout_s=5,
        on_change=lambda _: world.changed(),
        secret=secret,
    )


@contextlib.asynccontextmanager
async def world_of(
    way: Way, folder: Path, *, max_waiting: int = 100, max_frame_bytes: int = LIMIT
) -> AsyncIterator[World]:
    world = World(max_waiting=max_waiting)
    if way == "handle":

        async def call(frame: bytes) -> bytes:
            return await answer_call(frame, world.runner, clock=world.clock, max_frame_bytes=max_frame_bytes)

        world.client = handle_client(world, call, max_frame_bytes)
        yield world
        await world.client.close()
    else:
        hello = Hello(PROTOCOL_VERSION, "", "m", "v1", "sha256:0")
        world.server = TensorServer(
            world.runner, hello=hello, clock=world.clock, max_frame_bytes=max_frame_bytes, secret=SECRET
        )
        where = UnixAddress(str(folder / "r1.sock")) if way == "unix" else TcpAddress("127.0.0.1", 0)
        world.client = await dial(world, await world.server.start(where), max_frame_bytes=max_frame_bytes)
        yield world
        await world.client.close()
        await world.server.close()
    world.model.let_go()
    world.runner.close()


def handle_client(world: World, call: Callable[[bytes], object], max_frame_bytes: int = LIMIT) -> HandleClient:
    return HandleClient(
        "m@v1 (handle)",
        call,  # type: ignore[arg-type]
        clock=world.clock,
        max_frame_bytes=max_frame_bytes,
        available=lambda: world.available,
        on_change=world.changed,
    )


@pytest.fixture(params=["unix", "tcp", "handle"])
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


async def ending(answer: asyncio.Future[Answer]) -> Answer:
    async with asyncio.timeout(10):
        return await answer


class TestEveryClient:
    async def test_answers(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            assert world.client.live
            answer = await ending(world.client.submit(world.work([1, 2], [3])))
            assert values_of(answer.outputs) == [2, 4, 6]
            assert (answer.outputs[0].name, answer.outputs[0].datatype, answer.dropped) == ("y", "FP32", ())

    async def test_carries_batches_of_any_size(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir, max_frame_bytes=8 << 20) as world:
            for rows in (1, 3, 5_000, 70_000, 200_000):
                values = np.arange(rows, dtype=np.float32)
                answer = await ending(world.client.submit(world.work(values.tolist())))
                np.testing.assert_array_equal(answer.outputs[0].array[:, 1], values * 2)

    async def test_gives_every_batch_its_own_answer_with_several_in_flight(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            answers = [world.client.submit(world.work([value])) for value in range(8)]
            assert world.client.outstanding == 8
            world.model.let_go()
            assert [values_of((await ending(answer)).outputs) for answer in answers] == [[2.0 * n] for n in range(8)]
            assert world.model.seen == [[float(n)] for n in range(8)]
            await world.until(lambda: world.client.outstanding == 0)

    async def test_says_when_a_place_is_free(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.client.submit(world.work([1]))
            await world.until(lambda: world.client.outstanding == 0)

    async def test_tells_that_the_model_failed_and_goes_on(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            with pytest.raises(ModelFailed, match="a negative number"):
                await ending(world.client.submit(world.work([1, -1])))
            await world.until(lambda: world.client.outstanding == 0)
            assert values_of((await ending(world.client.submit(world.work([1])))).outputs) == [2]

    async def test_tells_that_a_model_gave_what_its_signature_does_not_say(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.output = lambda x: x.astype(np.int32)
            with pytest.raises(InvalidAnswer, match="'y' as int32, not FP32"):
                await ending(world.client.submit(world.work([1])))
            world.model.output = lambda x: x.astype(np.float64)
            with pytest.raises(InvalidAnswer, match="'y' as float64"):
                await ending(world.client.submit(world.work([1])))
            assert world.client.live

    async def test_a_model_that_raises_something_else_only_fails_its_own_batch(
        self, way: Way, socket_dir: Path
    ) -> None:
        async with world_of(way, socket_dir) as world:

            def broken(x: Array) -> Array:
                raise ZeroDivisionError("oh \udc80" + "no" * 10**6)

            world.model.output, good = broken, world.model.output
            with pytest.raises(ModelFailed, match="ZeroDivisionError: oh"):
                await ending(world.client.submit(world.work([1])))
            world.model.output = good
            assert values_of((await ending(world.client.submit(world.work([1])))).outputs) == [2]

    async def test_a_full_replica_takes_no_more(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir, max_waiting=2) as world:
            world.model.hold()
            taken = [world.client.submit(world.work([1])) for _ in range(2)]
            with pytest.raises(ReplicaUnavailable, match="has 2 batches waiting"):
                await ending(world.client.submit(world.work([1])))
            world.model.let_go()
            for answer in taken:
                await ending(answer)
            await world.until(lambda: world.client.outstanding == 0)

    async def test_a_replica_that_shuts_down_takes_no_more(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.runner.close()
            with pytest.raises(ReplicaUnavailable, match="is shutting down"):
                await ending(world.client.submit(world.work([1])))
            await world.until(lambda: world.client.outstanding == 0)

    async def test_what_is_past_its_deadline_is_never_run(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            first = world.client.submit(world.work([1]))
            await world.model.started.wait()
            late = world.client.submit(work_of([2], [3, 4], [5], deadline=world.clock.now + FOREVER))
            late_too = world.client.submit(world.work([6], within=10))
            await world.until_queued(3)
            world.clock.advance(20)
            world.model.let_go()
            await ending(first)
            assert values_of((await ending(late)).outputs) == [4, 6, 8, 10]
            answer = await ending(late_too)
            assert (answer.outputs, answer.dropped) == ((), (0,))
            assert world.model.seen == [[1], [2, 3, 4, 5]]
            await world.until(lambda: world.client.outstanding == 0)

    async def test_only_the_late_requests_of_a_batch_are_dropped(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            first = world.client.submit(world.work([1]))
            await world.model.started.wait()
            inputs = world.work([2], [3, 4], [5]).inputs
            now = world.clock.now
            mixed = world.client.submit(Work(inputs, (1, 2, 1), (now + FOREVER, now + 10, now + FOREVER)))
            await world.until_queued(2)
            world.clock.advance(20)
            world.model.let_go()
            await ending(first)
            answer = await ending(mixed)
            assert (answer.dropped, values_of(answer.outputs)) == ((1,), [4, 10])
            assert world.model.seen == [[1], [2, 5]]

    async def test_a_cancelled_batch_is_not_run_and_frees_its_place(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            first = world.client.submit(world.work([1]))
            await world.model.started.wait()
            unwanted = world.client.submit(world.work([2], [3]))
            await world.until_queued(2)
            unwanted.cancel()
            await settled()
            if isinstance(world.client, ChannelClient):
                await world.client.ping(10)  # what was sent before it has arrived
            world.model.let_go()
            await ending(first)
            await world.until(lambda: world.client.outstanding == 0)
            await world.runner.drained()
            assert world.model.seen == [[1]]

    async def test_closing_fails_what_is_in_flight(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            answers = [world.client.submit(world.work([n])) for n in range(3)]
            await world.model.started.wait()
            await world.client.close()
            for answer in answers:
                with pytest.raises(ReplicaLost):
                    await ending(answer)
            assert not world.client.live
            await world.until(lambda: world.client.outstanding == 0)
            with pytest.raises(ReplicaUnavailable):
                await ending(world.client.submit(world.work([1])))

    async def test_a_frame_over_the_bound_fails_alone(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir, max_frame_bytes=4000) as world:
            world.model.hold()
            other = world.client.submit(world.work([1]))
            with pytest.raises(PayloadTooLarge, match="at most 4000"):
                await ending(world.client.submit(world.work([0.0] * 1000)))
            world.model.let_go()
            assert values_of((await ending(other)).outputs) == [2]
            await world.until(lambda: world.client.outstanding == 0)

    async def test_an_answer_over_the_bound_fails_alone(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir, max_frame_bytes=4000) as world:
            world.model.output = lambda x: np.repeat(x, 500, axis=0) if len(x) > 1 else x
            answers = [world.client.submit(world.work(values)) for values in ([1], [1, 2], [3])]
            with pytest.raises(PayloadTooLarge, match=r"the answer needs .* at most 4000"):
                await ending(answers[1])
            assert values_of((await ending(answers[0])).outputs) == [1]
            assert values_of((await ending(answers[2])).outputs) == [3]
            with pytest.raises(ModelFailed, match=r"the answer needs .* at most 4000"):  # whose doing isn't known yet
                await ending(world.client.submit(world.work([1], [2])))


class TestTheConnection:
    @pytest.fixture(params=["unix", "tcp"])
    def way(self, request: pytest.FixtureRequest) -> Way:
        chosen: Way = request.param
        return chosen

    async def test_a_lost_peer_fails_everything_at_once(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            answers = [world.client.submit(world.work([n])) for n in range(3)]
            await world.model.started.wait()
            await world.server.close()
            for answer in answers:
                with pytest.raises(ReplicaLost, match="r1"):
                    await ending(answer)
            assert (world.client.live, world.client.outstanding) == (False, 0)

    async def test_work_of_a_lost_gateway_is_not_run(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            world.model.hold()
            for n in range(3):
                world.client.submit(world.work([n])).add_done_callback(lambda answer: answer.exception())
            await world.model.started.wait()
            await world.until_queued(3)
            await world.client.close()
            await world.server.close()  # it has seen the connection end, then
            world.model.let_go()
            await world.runner.drained()
            assert world.model.seen == [[0]]

    async def test_a_ping_is_answered_while_the_model_computes(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            assert isinstance(world.client, ChannelClient)
            idle = await world.client.ping(10)
            world.model.hold()
            answers = [world.client.submit(world.work([n])) for n in range(2)]
            await world.model.started.wait()
            world.clock.advance(1.5)
            busy = await world.client.ping(10)
            world.model.let_go()
            for answer in answers:
                await ending(answer)
            assert (idle.waiting, idle.running_us) == (0, 0)
            assert (busy.waiting, busy.running_us) == (2, 1_500_000)

    async def test_goodbye_lets_work_finish_and_takes_no_more(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            assert isinstance(world.client, ChannelClient)
            world.model.hold()
            answer = world.client.submit(world.work([1]))
            await world.model.started.wait()
            draining = asyncio.create_task(world.server.drain("so long"))
            assert await world.client.gone(10)
            assert not world.client.live
            with pytest.raises(ReplicaUnavailable):
                await ending(world.client.submit(world.work([2])))
            assert not draining.done()
            world.model.let_go()
            await draining
            assert values_of((await ending(answer)).outputs) == [2]
            await world.client.drained()

    async def test_who_dials_a_replica_that_leaves_hears_goodbye_too(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            await world.server.drain("so long")
            late = await dial(world, address_of(world, socket_dir))
            assert await late.gone(10)
            assert not late.live
            await late.close()

    async def test_an_answer_that_is_still_being_sent_is_sent_before_the_server_ends(
        self, way: Way, socket_dir: Path
    ) -> None:
        async with world_of(way, socket_dir, max_frame_bytes=64 << 20) as world:
            rows = 4_000_000
            world.model.output = lambda x: np.ones((rows, 2), np.float32)
            answer = world.client.submit(world.work([1]))
            await world.model.started.wait()
            await world.server.drain("so long")
            await world.server.close()
            assert not world.server._connections, "the process could end now, with half an answer unsent"
            assert (await ending(answer)).outputs[0].shape == (rows, 2)

    async def test_nothing_in_flight_is_drained_even_if_a_batch_was_cancelled(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            assert isinstance(world.client, ChannelClient)
            world.model.hold()
            unwanted = world.client.submit(world.work([1]))
            await world.model.started.wait()
            unwanted.cancel()
            draining = asyncio.create_task(world.client.drained())
            turns = await turns_until(draining, world.model.let_go)
            assert turns < 200, "it spins instead of waiting"

    async def test_forgetting_one_request_leaves_its_neighbours(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            assert isinstance(world.client, ChannelClient)
            world.model.hold()
            first = world.client.submit(world.work([1]))
            await world.model.started.wait()
            second = world.client.submit(world.work([2], [3], [4]))
            world.client.forget(second, 1)
            await world.client.ping(10)
            world.model.let_go()
            await ending(first)
            answer = await ending(second)
            assert (answer.dropped, values_of(answer.outputs)) == ((1,), [4, 8])

    async def test_a_wrong_secret_is_refused(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            with pytest.raises(ReplicaUnavailable, match="secret"):
                await dial(world, address_of(world, socket_dir), secret="guessed")

    async def test_a_stranger_can_make_a_replica_take_no_memory(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world:
            async with stranger(address_of(world, socket_dir)) as (reader, writer):
                writer.write(frame_head(Kind.INFER, b"", LIMIT - 100))
                assert b"at most 65536 are allowed" in await reader.read()
            assert world.client.live

    async def test_a_replica_refuses_another_protocol_and_says_which(self, way: Way, socket_dir: Path) -> None:
        async with world_of(way, socket_dir) as world, stranger(address_of(world, socket_dir)) as (reader, writer):
            writer.write(small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION + 1, SECRET)))
            assert f"this replica speaks {PROTOCOL_VERSION}".encode() in await reader.read()

    @pytest.mark.parametrize(
        "frame",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            small_frame(Kind.PING, PingHead(1)),
            small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION, SECRET)) + small_frame(Kind.GOODBYE, GoodbyeHead("?")),
            small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION, SECRET)) + frame_head(Kind.INFER, b"\xc1", 0),
        ],
        ids=["HTTP", "no HELLO first", "a frame that gateways don't send", "a header that is none"],
    )
    async def test_a_replica_hangs_up_on_garbage_and_serves_the_others(
        self, way: Way, socket_dir: Path, frame: bytes
    ) -> None:
        async with world_of(way, socket_dir) as world:
            async with stranger(address_of(world, socket_dir)) as (reader, writer):
                writer.write(frame)
                assert await reader.read()  # why, and then the end
            assert values_of((await ending(world.client.submit(world.work([1])))).outputs) == [2]

    async def test_requests_that_lie_about_their_rows_leave_the_model_unharmed(
        self, way: Way, socket_dir: Path
    ) -> None:
        async with world_of(way, socket_dir) as world:
            async with stranger(address_of(world, socket_dir)) as (reader, writer):
                writer.write(small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION, SECRET)))
                writer.write(small_frame(Kind.INFER, InferHead(1, (), (), ())))
                await reader.read()
            assert values_of((await ending(world.client.submit(world.work([1])))).outputs) == [2]


def address_of(world: World, folder: Path) -> Address:
    sockets = world.server._server.sockets if world.server._server else ()
    name = sockets[0].getsockname()
    return UnixAddress(name) if isinstance(name, str) else TcpAddress(*name[:2])


@contextlib.asynccontextmanager
async def stranger(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if isinstance(address, UnixAddress):
        reader, writer = await asyncio.open_unix_connection(address.path)
    else:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    async with asyncio.timeout(10):
        yield reader, writer
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def turns_until(task: asyncio.Task[None], act: Callable[[], None]) -> int:
    """How often the loop turned until ``task`` ended; ``act`` happens meanwhile."""
    loop = asyncio.get_running_loop()
    turns = 0
    turn = loop._run_once  # type: ignore[attr-defined]

    def counted() -> None:
        nonlocal turns
        turns += 1
        turn()

    loop._run_once = counted  # type: ignore[attr-defined]
    loop.call_later(0.05, act)
    await task
    loop._run_once = turn  # type: ignore[attr-defined]
    return turns


class TestABadReplica:
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",
            frame_head(Kind.RESULT, b"\xc1", 0),
            small_frame(Kind.RESULT, ResultHead(99, ())),
            small_frame(Kind.RESULT, ResultHead(1, (TensorHead("y", "FP32", (2,), 8),))),
            PREFIX.pack(MAGIC, Kind.RESULT, 52, 0, 2**31),
            small_frame(Kind.INFER, InferHead(1, (1,), (1,), ())),
            small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION)),
        ],
        ids=[
            "HTTP",
            "no header",
            "an unknown batch",
            "tensors that aren't there",
            "over the bound",
            "INFER",
            "HELLO again",
        ],
    )
    async def test_garbage_fails_what_is_in_flight_as_lost(self, socket_dir: Path, answer: bytes) -> None:
        world = World()
        async with scripted(ScriptedReplica(answer=answer), socket_dir) as address:
            client = await dial(world, address)
            answers = [client.submit(world.work([1])), client.submit(world.work([2]))]
            for each in answers:
                with pytest.raises(ReplicaLost):
                    await ending(each)
            assert (client.live, client.outstanding) == (False, 0)
        world.runner.close()

    async def test_another_protocol_is_refused(self, socket_dir: Path) -> None:
        world = World()
        hello = small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION + 1))
        async with scripted(ScriptedReplica(hello=hello), socket_dir) as address:
            with pytest.raises(
                ReplicaUnavailable, match=f"speaks protocol {PROTOCOL_VERSION + 1}, not {PROTOCOL_VERSION}"
            ):
                await dial(world, address)
        world.runner.close()

    async def test_whoever_gives_up_dialling_leaves_no_connection(self, socket_dir: Path) -> None:
        world = World()
        gone = asyncio.Event()

        class Silent(ScriptedReplica):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await super().serve(reader, writer)
                gone.set()

        greeted = Silent(silent=True)
        async with scripted(greeted, socket_dir) as address:
            dialling = asyncio.create_task(dial(world, address))
            await settled(50)
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            async with asyncio.timeout(10):
                await gone.wait()
        world.runner.close()

    async def test_silence_ends_by_the_timeout(self, socket_dir: Path) -> None:
        world = World()
        async with scripted(ScriptedReplica(silent=True), socket_dir) as address:
            with pytest.raises(ReplicaUnavailable, match="timed out"):
                await ChannelClient.connect(
                    "r1",
                    address,
                    clock=world.clock,
                    max_frame_bytes=LIMIT,
                    timeout_s=0.05,
                    on_change=lambda _: None,
                )
        world.runner.close()

    async def test_an_unanswered_ping_is_a_lost_replica(self, socket_dir: Path) -> None:
        world = World()
        async with scripted(ScriptedReplica(), socket_dir) as address:
            client = await dial(world, address)
            with pytest.raises(ReplicaLost, match=r"hasn't answered a ping for 0\.05 s"):
                await client.ping(0.05)
            await client.close()
            with pytest.raises(ReplicaLost, match="closed"):
                await client.ping(60)
        world.runner.close()


class TestTheHandle:
    async def test_a_call_that_hangs_ends_by_its_deadline(self, clock: FakeClock) -> None:
        cancelled = []

        async def hanging(frame: bytes) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(clock.now)
            raise AssertionError

        client = idle_handle(clock, hanging)
        started = clock.now
        answer = client.submit(work_of([1], [2], deadline=started + 3))
        with pytest.raises(DeadlineExceeded, match="before the deadline"):
            await answer
        assert clock.now == pytest.approx(started + 3, abs=0.01)
        assert (client.outstanding, cancelled) == (0, [clock.now])

    async def test_is_live_as_long_as_serve_lists_a_replica(self, clock: FakeClock) -> None:
        replicas = [1]
        client = idle_handle(clock, never, available=lambda: bool(replicas))
        assert client.live
        replicas.clear()
        assert not client.live

    @pytest.mark.parametrize(
        ("raised", "heard"),
        [
            (ReplicaLost("died"), ReplicaLost),
            (ReplicaUnavailable("full"), ReplicaUnavailable),
            (ValueError("a defect"), Internal),
        ],
    )
    async def test_every_way_a_call_can_fail_is_heard(
        self, clock: FakeClock, raised: Exception, heard: type[AttemptError]
    ) -> None:
        async def failing(frame: bytes) -> bytes:
            raise raised

        client = idle_handle(clock, failing)
        with pytest.raises(heard, match=str(raised)):
            await client.submit(work_of([1], deadline=clock.now + 1))
        assert client.outstanding == 0

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"nonsense, but longer than a prefix",
            small_frame(Kind.RESULT, ResultHead(1, ())) * 2,
            small_frame(Kind.RESULT, ResultHead(1, ())) + b"\0",
            small_frame(Kind.RESULT, ResultHead(1, (TensorHead("y", "FP32", (2,), 8),))),
        ],
        ids=["nothing", "no frame", "two frames", "a byte too many", "tensors that aren't there"],
    )
    async def test_garbage_is_an_internal_error(self, clock: FakeClock, answer: bytes) -> None:
        async def babbling(frame: bytes) -> bytes:
            return answer

        client = idle_handle(clock, babbling)
        with pytest.raises(Internal):
            await client.submit(work_of([1], deadline=clock.now + 1))

    @pytest.mark.parametrize("raw", [b"", b"nonsense, but longer than a prefix", small_frame(Kind.PING, PingHead(1))])
    async def test_a_replica_answers_garbage_with_an_error(self, raw: bytes) -> None:
        world = World()
        client = handle_client(world, never)
        reply = client._read(await answer_call(raw, world.runner, clock=world.clock, max_frame_bytes=LIMIT))
        assert isinstance(reply, Internal)
        world.runner.close()


async def never(frame: bytes) -> bytes:
    raise AssertionError("nothing should be sent")


def idle_handle(
    clock: FakeClock, call: Callable[[bytes], object], available: Callable[[], bool] = lambda: True
) -> HandleClient:
    return HandleClient(
        "m@v1 (handle)",
        call,  # type: ignore[arg-type]
        clock=clock,
        max_frame_bytes=LIMIT,
        available=available,
        on_change=lambda: None,
    )


class Observed:
    """An ``Observer`` that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int]] = []

    def dropped(self, requests: int) -> None:
        self.all.append(("dropped", requests))

    def ran(self, *, rows: int, seconds: float) -> None:
        self.all.append(("ran", rows))

    def failed(self) -> None:
        self.all.append(("failed", 1))


class TestTheRunner:
    async def test_everything_that_happens_to_work_is_observed(self) -> None:
        clock, observed = FakeClock(), Observed()
        model = HeldModel()
        runner = ModelRunner(model.run, DOUBLE, clock=clock, max_waiting=9, observer=observed)
        inputs = work_of([1], [2, 3], deadline=0).inputs
        await runner.run(Work(inputs, (1, 2), (clock.now + 1, clock.now + 1)))
        await runner.run(Work(inputs, (1, 2), (clock.now - 1, clock.now + 1)))
        await runner.run(Work(inputs, (1, 2), (clock.now - 1, clock.now - 1)))
        with pytest.raises(ModelFailed):
            await runner.run(work_of([-1], deadline=clock.now + 1))
        assert observed.all == [("ran", 3), ("dropped", 1), ("ran", 2), ("dropped", 2), ("failed", 1)]
        runner.close()

    async def test_a_model_that_proved_quick_runs_on_the_loop_until_it_is_slow(self) -> None:
        world = World()
        threads: list[str] = []

        def spying(x: Array) -> Array:
            threads.append(threading.current_thread().name)
            return x

        world.model.output = spying
        for _ in range(40):
            await world.runner.run(world.work([1]))
        assert (threads[0], threads[-1]) == ("model", threading.main_thread().name)

        def slow(x: Array) -> Array:
            world.clock.advance(1)
            return spying(x)

        world.model.output = slow
        for _ in range(2):
            await world.runner.run(world.work([1]))
        assert threads[-2:] == [threading.main_thread().name, "model"]
        world.runner.close()

    async def test_where_a_row_may_hold_more_what_was_quick_with_little_proves_nothing(self) -> None:
        signature = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
        threads: list[str] = []

        def spying(inputs: Mapping[str, Array]) -> list[Array]:
            threads.append(threading.current_thread().name)
            return [inputs["x"]]

        clock = FakeClock()
        runner = ModelRunner(spying, signature, clock=clock, max_waiting=100)
        for length in [10] * 40 + [4000]:
            tensor = Tensor("x", "FP32", np.ones(length, np.float32))
            await runner.run(Work((tensor,), (1,), (clock.now + FOREVER,)))
        assert threads[-2:] == [threading.main_thread().name, "model"]
        runner.close()

    async def test_a_job_that_breaks_it_costs_that_job_and_not_the_thread(self) -> None:
        world = World()
        ended: list[Outcome] = []
        first = asyncio.Event()

        def done(outcome: Outcome) -> None:
            ended.append(outcome)
            first.set()

        world.runner.submit(Job(Work((), (), ()), done))
        async with asyncio.timeout(10):
            await first.wait()
            answer = await world.runner.run(world.work([1]))
        assert isinstance(ended[0], Internal)
        assert values_of(answer.outputs) == [2]
        world.runner.close()

    async def test_a_closed_one_refuses_to_call_instead_of_hanging(self) -> None:
        world = World()
        world.runner.close()
        async with asyncio.timeout(10):
            with pytest.raises(ReplicaUnavailable):
                await world.runner.call(lambda: None)

    async def test_a_call_waits_for_its_turn_and_raises_what_it_raises(self) -> None:
        world = World()
        world.model.hold()
        running = asyncio.create_task(world.runner.run(world.work([1])))
        await world.model.started.wait()
        called: list[list[list[float]]] = []

        def check() -> None:
            called.append(list(world.model.seen))
            raise LookupError("as it should")

        calling = asyncio.create_task(world.runner.call(check))
        await settled()
        world.model.let_go()
        with pytest.raises(LookupError, match="as it should"):
            await calling
        await running
        assert called == [[[1]]]
        world.runner.close()
