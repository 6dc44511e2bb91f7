"""One snapshot a second however many look, none while nobody does, and nothing kept for who doesn't read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from itertools import chain
from typing import Any

import msgspec
import pytest

from serving.live.hub import HEARTBEAT_S, PERIOD_S, RETRY_MS, Hub
from serving.live.snapshot import Series, Snapshot
from tests.fakes import FakeClock, settled
from tests.snapshots import NOW, model, snapshot


class FakeSource:
    """Has one model, whose newest second is the one before now; takes as long as the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.gathered = 0
        self.takes_s = 0.0
        self.error: Exception | None = None
        self._clock = clock
        self._from = int(clock.now)
        self.last = self._from - 1

    async def gather(self) -> Snapshot:
        self.gathered += 1
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        self.last = int(self._clock.now) - 1
        return msgspec.structs.replace(snapshot(model()), time=NOW + self._clock.now)

    def with_series(self, snapshot: Snapshot, *, after: int = 0) -> Snapshot:
        seconds = list(range(max(after + 1, self._from - 5), self.last + 1))
        [found] = snapshot.models
        return msgspec.structs.replace(snapshot, models=(msgspec.structs.replace(found, series=Series(t=seconds)),))


class Viewer:
    """Reads as an EventSource does: a line at a time, an event at an empty one."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.frames: AsyncGenerator[bytes] = hub.watch()
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.comments = 0
        self.retry = 0
        self.ended = False
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for frame in self.frames:
            self.take(frame)
        self.ended = True

    def take(self, frame: bytes) -> None:
        assert frame.endswith(b"\n\n")
        fields = dict(line.split(": ", 1) for line in frame.decode().splitlines() if line)
        if "" in fields or frame.startswith(b":"):
            self.comments += 1
        elif "retry" in fields:
            self.retry = int(fields["retry"])
        else:
            assert list(fields) == ["event", "id", "data"]
            assert fields["event"] == "snapshot"
            self.ids.append(fields["id"])
            self.events.append(json.loads(fields["data"]))

    @property
    def seconds(self) -> list[list[int]]:
        """Of each event, which seconds of the series it brought."""
        return [event["models"][0]["series"]["t"] for event in self.events]

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.frames.aclose()


@pytest.fixture
def source(clock: FakeClock) -> FakeSource:
    return FakeSource(clock)


@pytest.fixture
def hub(clock: FakeClock, source: FakeSource) -> Hub:
    return Hub(source, clock=clock)


async def test_nothing_is_gathered_while_nobody_looks(clock: FakeClock, source: FakeSource, hub: Hub) -> None:
    await asyncio.sleep(60)
    assert source.gathered == 0


async def test_however_many_watch_there_is_one_gathering_a_second(
    clock: FakeClock, source: FakeSource, hub: Hub
) -> None:
    viewers = [Viewer(hub) for _ in range(20)]
    await asyncio.sleep(5.5 * PERIOD_S)
    assert source.gathered == 6
    assert {len(viewer.events) for viewer in viewers} == {6}
    for _ in range(50):
        await hub.overview()
    assert source.gathered == 6
    await asyncio.gather(*(viewer.leave() for viewer in viewers))
    await asyncio.sleep(60)
    assert (source.gathered, hub.viewers) == (6, 0)


async def test_a_viewer_hears_when_to_come_again_then_the_whole_series_then_what_is_new(
    clock: FakeClock, source: FakeSource, hub: Hub
) -> None:
    viewer = Viewer(hub)
    await asyncio.sleep(3.5)
    start = 1000
    assert viewer.retry == RETRY_MS
    assert viewer.seconds == [list(range(start - 5, start)), [start], [start + 1], [start + 2]]
    assert viewer.ids == [f"{event['time']:.3f}" for event in viewer.events]
    late = Viewer(hub)
    await settled()
    assert late.seconds == [list(range(start - 5, start + 3))]
    await asyncio.gather(viewer.leave(), late.leave())


async def test_who_reads_slowly_misses_snapshots_but_no_second(clock: FakeClock, source: FakeSource, hub: Hub) -> None:
    slow = hub.watch()
    other = Viewer(hub)
    reader = Viewer.__new__(Viewer)
    reader.events, reader.ids, reader.comments, reader.retry = [], [], 0, 0
    for wait_s in (0.0, 0.1, 4.0, 0.0, 3.0):
        await asyncio.sleep(wait_s)
        reader.take(await anext(slow))
    await settled()
    assert list(chain(*reader.seconds)) == list(chain(*other.seconds))
    assert len(reader.events) < len(other.events)
    await slow.aclose()
    await other.leave()


async def test_a_snapshot_that_takes_long_is_bridged_by_comments_and_is_not_made_twice(
    clock: FakeClock, source: FakeSource, hub: Hub
) -> None:
    source.takes_s = 2.5 * HEARTBEAT_S
    viewer = Viewer(hub)
    asked = [asyncio.ensure_future(hub.overview()) for _ in range(3)]
    await asyncio.sleep(source.takes_s + 0.1)
    assert (viewer.comments, len(viewer.events), source.gathered) == (2, 1, 1)
    assert [json.loads(each)["models"][0]["name"] for each in await asyncio.gather(*asked)] == ["digits"] * 3
    await viewer.leave()
    await asyncio.sleep(source.takes_s)


async def test_one_who_asks_once_and_goes_does_not_take_the_answer_from_others(
    clock: FakeClock, source: FakeSource, hub: Hub
) -> None:
    source.takes_s = 0.2
    first, second = (asyncio.ensure_future(hub.overview()) for _ in range(2))
    await settled()
    first.cancel()
    assert json.loads(await second)["time"] > 0
    assert source.gathered == 1


async def test_an_overview_is_made_anew_once_it_is_a_second_old(clock: FakeClock, source: FakeSource, hub: Hub) -> None:
    times = []
    for wait_s in (0.0, 0.5, 0.6):
        await asyncio.sleep(wait_s)
        times.append(json.loads(await hub.overview())["time"])
    assert (times[0] == times[1], times[2] > times[1], source.gathered) == (True, True, 2)


async def test_who_comes_back_later_is_not_shown_what_was(clock: FakeClock, source: FakeSource, hub: Hub) -> None:
    first = Viewer(hub)
    await settled()
    await first.leave()
    await asyncio.sleep(600)
    source.takes_s = 0.3
    second = Viewer(hub)
    await asyncio.sleep(0.4)
    assert [event["time"] for event in second.events] == [pytest.approx(NOW + 1600.3, abs=0.01)]
    await second.leave()


async def test_what_fails_once_is_tried_again(
    clock: FakeClock, source: FakeSource, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    source.error = ValueError("a defect")
    viewer = Viewer(hub)
    await asyncio.sleep(1.5)
    with pytest.raises(ValueError, match="a defect"):
        await hub.overview()
    assert viewer.events == []
    source.error = None
    await asyncio.sleep(1.0)
    assert (len(viewer.events), "no snapshot could be made" in caplog.text) == (1, True)
    await viewer.leave()


async def test_a_gateway_that_leaves_ends_what_is_watched(clock: FakeClock, source: FakeSource, hub: Hub) -> None:
    viewers = [Viewer(hub) for _ in range(3)]
    await asyncio.sleep(1.5)
    hub.close()
    await asyncio.gather(*(viewer.task for viewer in viewers))
    assert all(viewer.ended for viewer in viewers)
    gathered = source.gathered
    late = Viewer(hub)
    await asyncio.sleep(60)
    assert (late.ended, late.events, source.gathered) == (True, [], gathered)


async def test_a_gateway_that_leaves_still_answers_who_has_asked(
    clock: FakeClock, source: FakeSource, hub: Hub
) -> None:
    source.takes_s = 0.4
    asked = asyncio.ensure_future(hub.overview())
    await settled()
    hub.close()
    assert json.loads(await asked)["models"]


async def test_a_defect_that_nobody_waits_for_any_more_is_nobodys(
    clock: FakeClock, source: FakeSource, hub: Hub
) -> None:
    """The loop of this test fails it if an exception isn't seen by anybody."""
    source.takes_s, source.error = 0.4, ValueError("a defect")
    asked = asyncio.ensure_future(hub.overview())
    await settled()
    asked.cancel()
    await asyncio.sleep(1)
