"""One open channel to every replica that lives, whatever comes, goes, hangs or lies."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serving.channel.address import UnixAddress
from serving.channel.frames import FrameReader, Kind
from serving.channel.membership import ChannelLimits, Membership
from serving.channel.messages import PROTOCOL_VERSION, Hello, small_frame, work_frame
from serving.channel.runner import ModelRunner
from serving.channel.server import TensorServer
from serving.channel.work import ReplicaClient, Report
from serving.clock import SystemClock
from serving.errors import ReplicaLost
from tests.fakes import DOUBLE, HeldModel, ScriptedReplica, scripted, settled, values_of, work_of

CLOCK = SystemClock()
QUICK = ChannelLimits(
    max_frame_bytes=1 << 20, redial_min_s=0.01, redial_max_s=0.02, ping_interval_s=0.01, ping_timeout_s=5
)


class FakeLane:
    """Who uses the clients. ``until`` waits for what it is told."""

    def __init__(self) -> None:
        self.clients: dict[str, ReplicaClient] = {}
        self.attached = 0
        self.reports: dict[str, Report] = {}
        self.forgotten: list[str] = []
        self.lost_pings: list[str] = []
        self._changed = asyncio.Event()

    def attach(self, client: ReplicaClient) -> None:
        self.clients[client.replica_id] = client
        self.attached += 1
        self._changed.set()

    def detach(self, client: ReplicaClient) -> None:
        if self.clients.get(client.replica_id) is client:
            del self.clients[client.replica_id]
        self._changed.set()

    def forget(self, replica_id: str) -> None:
        self.forgotten.append(replica_id)

    def lost_ping(self, replica_id: str) -> None:
        self.lost_pings.append(replica_id)

    def pump(self) -> None:
        self._changed.set()

    def report(self, client: ReplicaClient) -> Report:
        return self.reports.get(client.replica_id, Report())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Replica:
    """A replica in this process, which can be killed and started again at its address."""

    def __init__(self, folder: Path, name: str = "r1") -> None:
        self.address = UnixAddress(str(folder / f"{name}.sock"))
        self.model = HeldModel()
        self.runner = ModelRunner(self.model.run, DOUBLE, clock=CLOCK, max_waiting=9)

    async def start(self) -> Replica:
        self.server = TensorServer(
            self.runner, hello=Hello(PROTOCOL_VERSION), clock=CLOCK, max_frame_bytes=1 << 20, secret="s"
        )
        await self.server.start(self.address)
        return self

    @property
    def connections(self) -> int:
        return len(self.server._connections)

    def heard(self) -> Report:
        reports, now = self.server.reports, CLOCK.monotonic()
        return Report(reports.demand(now), reports.ejected_s(now))

    async def end(self) -> None:
        self.model.let_go()
        await self.server.close()
        self.runner.close()


async def comes_true(condition: Callable[[], bool]) -> None:
    """Of what nobody tells us."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # as said
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def membership_of(lane: FakeLane, limits: ChannelLimits = QUICK) -> AsyncIterator[Membership]:
    membership = Membership(lane, clock=CLOCK, limits=limits, secret="s")
    yield membership
    await membership.close()
    assert not membership._tasks
    assert not membership._connected


async def test_replicas_are_dialled_when_they_come_and_left_when_they_go(socket_dir: Path) -> None:
    lane = FakeLane()
    first, second = await Replica(socket_dir, "r1").start(), await Replica(socket_dir, "r2").start()
    async with membership_of(lane) as membership:
        membership.update({"r1": first.address})
        await lane.until(lambda: set(lane.clients) == {"r1"})
        membership.update({"r1": first.address, "r2": second.address})
        await lane.until(lambda: set(lane.clients) == {"r1", "r2"})
        membership.update({"r2": second.address})
        await lane.until(lambda: set(lane.clients) == {"r2"})
        assert lane.attached == 2
        assert lane.forgotten == ["r1"]
    await first.end()
    await second.end()


async def test_a_connection_that_is_cut_is_dialled_again(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        await lane.until(lambda: lane.attached == 1)
        await replica.server.close()
        await lane.until(lambda: not lane.clients)
        await replica.start()
        await lane.until(lambda: lane.attached == 2)
        assert lane.forgotten == []
        answer = await lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        assert values_of(answer.outputs) == [2]
    await replica.end()


async def test_a_replica_that_moves_is_dialled_where_it_is(socket_dir: Path) -> None:
    lane = FakeLane()
    old, new = await Replica(socket_dir, "old").start(), await Replica(socket_dir, "new").start()
    async with membership_of(lane) as membership:
        membership.update({"r1": old.address})
        await lane.until(lambda: lane.attached == 1)
        membership.update({"r1": new.address})
        await lane.until(lambda: lane.attached == 2)
        await lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        assert (old.model.seen, new.model.seen) == ([], [[1]])
    await old.end()
    await new.end()


async def test_a_replica_that_is_gone_from_the_list_still_answers_what_it_has(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        await lane.until(lambda: "r1" in lane.clients)
        replica.model.hold()
        answer = lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        await replica.model.started.wait()
        membership.update({})
        await lane.until(lambda: not lane.clients)
        assert not answer.done()
        replica.model.let_go()
        assert values_of((await answer).outputs) == [2]
        await hung_up(replica)
    await replica.end()


async def test_a_replica_that_said_goodbye_is_waited_for_also_when_it_leaves_the_list_meanwhile(
    socket_dir: Path,
) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        await lane.until(lambda: "r1" in lane.clients)
        replica.model.hold()
        answer = lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        await replica.model.started.wait()
        draining = asyncio.create_task(replica.server.drain("so long"))
        await lane.until(lambda: not lane.clients)
        membership.update({})
        await settled(50)
        assert not answer.done()
        replica.model.let_go()
        assert values_of((await answer).outputs) == [2]
        await draining
        await hung_up(replica)
        await settled()
        assert not membership._tasks, "nobody dials a replica that isn't listed"
    await replica.end()


async def hung_up(replica: Replica) -> None:
    async with asyncio.timeout(10):
        await replica.server._alone.wait()


async def test_closing_waits_for_nothing(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        await lane.until(lambda: "r1" in lane.clients)
        replica.model.hold()
        answer = lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        await replica.model.started.wait()
    with pytest.raises(ReplicaLost):
        await answer
    assert not lane.clients
    await hung_up(replica)
    await replica.end()


async def test_closing_while_a_replica_is_left_leaves_no_connection(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        await lane.until(lambda: "r1" in lane.clients)
        membership.update({})
    await hung_up(replica)
    await replica.end()


async def test_an_address_that_nobody_answers_at_does_not_stop_the_others(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    nobody = UnixAddress(str(socket_dir / "nobody.sock"))
    too_long = UnixAddress("/" + "x" * 200)
    async with membership_of(lane) as membership:
        membership.update({"r0": nobody, "r1": replica.address, "r2": too_long})
        await lane.until(lambda: set(lane.clients) == {"r1"})
        late = Replica(socket_dir, "nobody")
        await late.start()
        await lane.until(lambda: set(lane.clients) == {"r0", "r1"})
    await replica.end()
    await late.end()


async def test_a_replica_that_leaves_pings_unanswered_is_lost(socket_dir: Path) -> None:
    lane = FakeLane()
    limits = ChannelLimits(ping_interval_s=0.01, ping_timeout_s=0.05, redial_min_s=10, redial_max_s=10)
    async with scripted(ScriptedReplica(), socket_dir) as address, membership_of(lane, limits) as membership:
        membership.update({"r1": address})
        await lane.until(lambda: "r1" in lane.clients)
        answer = lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        await lane.until(lambda: not lane.clients)
        assert lane.lost_pings == ["r1"]
        with pytest.raises(ReplicaLost):
            await answer


async def test_a_replica_that_died_is_not_taken_for_alive_until_serve_notices(socket_dir: Path) -> None:
    lane = FakeLane()
    limits = ChannelLimits(steady_s=0.0, gone_s=0.2)
    replica = await Replica(socket_dir).start()
    async with membership_of(lane, limits) as membership:
        assert membership.any_alive  # Serve lists nobody: that is told elsewhere
        membership.update({"r1": replica.address})
        await lane.until(lambda: "r1" in lane.clients)
        await replica.server.close()
        await lane.until(lambda: not lane.clients)
        died = alive(membership)
        await asyncio.sleep(0.25)  # it is believed for as long as the limits say
        assert (died, alive(membership)) == (False, True)
    await replica.end()


def alive(membership: Membership) -> bool:
    return membership.any_alive


async def test_a_busy_replica_answers_pings_and_is_kept(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()
    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        await lane.until(lambda: "r1" in lane.clients)
        replica.model.hold()
        answer = lane.clients["r1"].submit(work_of([1], deadline=CLOCK.monotonic() + 60))
        await replica.model.started.wait()
        pings = _Pings(replica)
        await pings.heard(5)
        assert lane.clients
        replica.model.let_go()
        await answer
    await replica.end()


class _Pings:
    """Counts the pings that arrive at a replica."""

    def __init__(self, replica: Replica) -> None:
        self.count = 0
        self._changed = asyncio.Event()
        (connection,) = replica.server._connections
        answer = connection._answer_ping

        def counted(ping: object) -> None:
            self.count += 1
            self._changed.set()
            answer(ping)  # type: ignore[arg-type]

        connection._answer_ping = counted  # type: ignore[method-assign]

    async def heard(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()


async def test_every_ping_tells_the_replica_what_the_lane_says_of_it(socket_dir: Path) -> None:
    lane = FakeLane()
    replica = await Replica(socket_dir).start()

    def said(report: Report) -> bool:
        return replica.heard() == report

    async with membership_of(lane) as membership:
        membership.update({"r1": replica.address})
        for report in (Report(7.5, 0.0), Report(0.0, 12.0)):
            lane.reports["r1"] = report
            await comes_true(functools.partial(said, report))
    await comes_true(lambda: not replica.connections)
    assert replica.heard() == Report()  # who isn't connected doesn't count
    await replica.end()


async def test_work_that_was_sent_before_the_goodbye_was_heard_is_answered(socket_dir: Path) -> None:
    replica = await Replica(socket_dir).start()
    reader, writer = await asyncio.open_unix_connection(replica.address.path)
    writer.write(small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION, "s")))
    frames = FrameReader(max_frame_bytes=1 << 20)

    async def next_kind() -> Kind:
        while True:
            data = await reader.read(1 << 16)
            assert data, "the replica has hung up"
            for frame in frames.feed(data):
                return Kind(frame.kind)

    async def leave() -> None:
        await replica.server.drain("scaled down")
        await replica.server.close()

    assert await next_kind() == Kind.HELLO
    leaving = asyncio.get_running_loop().create_task(leave())
    assert await next_kind() == Kind.GOODBYE
    now = CLOCK.monotonic()
    writer.writelines(work_frame(1, work_of([1], deadline=now + 60), now=now))  # it was on its way
    assert await next_kind() == Kind.RESULT
    writer.close()
    await leaving
    await replica.end()
