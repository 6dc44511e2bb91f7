"""Whoever is asked and doesn't answer costs a moment and no more: siblings at their ports, and the control plane."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from serving.clock import SystemClock
from serving.errors import ReplicaUnavailable
from serving.live.control import ASK_TIMEOUT_S, SILENT_AFTER_S, ControlPlane
from serving.live.seldom import READ_EVERY_S, Seldom
from serving.live.series import SeriesPage
from serving.live.siblings import BUSY_S, SERIES_PATH, STATUS_PATH, Siblings
from serving.rollout.report import ControllerReport, Overview
from serving.settings import HttpSettings
from tests.fakes import FakeClock

STATUS: dict[str, Any] = {
    "gateway": {"pid": 1, "time": 5.0, "accepting": True, "ready": True, "routing_table": 3},
    "models": {},
    "unavailable": {},
    "cache": None,
}
PAGE = SeriesPage(gateway="g1", since=1, until=9)
WRITING = Overview(ControllerReport("writing", seq=7), (), {"m@v3": "it was bad"})


class Sibling:
    """Another gateway's port: it answers, says nonsense, or keeps whoever asks waiting."""

    def __init__(self) -> None:
        self.system = "us"
        self.asked: list[str] = []
        self.nonsense: bytes | None = None
        self.mute = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            if self.mute:
                await reader.read()
            status = {**STATUS, "gateway": {**STATUS["gateway"], "system": self.system}}
            body = msgspec.json.encode(status if path == STATUS_PATH else PAGE)
            answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            writer.write(answer if self.nonsense is None else self.nonsense)
            with contextlib.suppress(OSError):
                await writer.drain()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def listening(sibling: Sibling) -> AsyncIterator[int]:
    server = await asyncio.start_server(sibling.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def siblings(port: int, *, own: int = 0, clock: FakeClock | None = None, after: int = 0) -> Siblings:
    http = HttpSettings(port=1, gateway_ports=(port, port))
    return Siblings(http, system="us", own_port=lambda: own, after=lambda _: after, clock=clock or SystemClock())


async def test_a_sibling_tells_how_it_stands_and_is_asked_only_for_new_seconds() -> None:
    sibling = Sibling()
    async with listening(sibling) as port:
        here = siblings(port, after=8)
        for _ in range(2):
            [heard] = await here.ask()
            assert (heard.port, heard.status.gateway.routing_table, heard.page) == (port, 3, PAGE)
    assert sorted(sibling.asked) == sorted([STATUS_PATH] * 2 + [f"{SERIES_PATH}?after={after}" for after in (0, 8)])


async def test_nobody_asks_itself() -> None:
    sibling = Sibling()
    async with listening(sibling) as port:
        assert await siblings(port, own=port).ask() == []
    assert sibling.asked == []


async def test_a_gateway_of_another_holdfast_is_no_sibling() -> None:
    sibling = Sibling()
    async with listening(sibling) as port:
        here = siblings(port)
        assert len(await here.ask()) == 1
        sibling.system = "them"
        assert await here.ask() == []


async def test_one_that_is_gone_is_gone_at_once() -> None:
    clock = FakeClock()
    async with listening(Sibling()) as port:
        here = siblings(port, clock=clock)
        assert len(await here.ask()) == 1
    assert await here.ask() == []


async def test_one_that_is_busy_is_as_it_was_for_a_moment() -> None:
    clock, sibling = FakeClock(), Sibling()
    async with listening(sibling) as port:
        here = siblings(port, clock=clock)
        before = await here.ask()
        sibling.mute = True
        clock.advance(BUSY_S)
        assert await here.ask() == before
        clock.advance(0.1)
        assert await here.ask() == []


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"hello",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n\xff",
        b"x" * 70_000,
    ],
)
async def test_somebody_else_at_the_port_is_no_gateway(nonsense: bytes) -> None:
    sibling = Sibling()
    sibling.nonsense = nonsense
    async with listening(sibling) as port:
        assert await siblings(port).ask() == []


class FakeControl:
    """A control plane that answers when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: asyncio.Queue[Overview | Exception] = asyncio.Queue()

    async def rollouts(self) -> bytes:
        self.asked += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.encode(answer)


async def test_what_the_control_plane_says_is_told(clock: FakeClock) -> None:
    control = FakeControl()
    control.answers.put_nowait(WRITING)
    assert await ControlPlane(control.rollouts, clock=clock).look() == WRITING


async def test_one_that_is_late_once_is_not_called_silent(clock: FakeClock) -> None:
    control = FakeControl()
    control.answers.put_nowait(WRITING)
    here = ControlPlane(control.rollouts, clock=clock)
    await here.look()
    assert (await here.look()).controller.state == "writing"
    here.close()


async def test_a_silent_one_is_asked_once_and_what_it_said_last_still_told(clock: FakeClock) -> None:
    control = FakeControl()
    control.answers.put_nowait(WRITING)
    here = ControlPlane(control.rollouts, clock=clock)
    await here.look()
    clock.advance(SILENT_AFTER_S)
    for _ in range(5):
        began = clock.now
        await here.look()
        assert clock.now - began == pytest.approx(ASK_TIMEOUT_S, abs=0.01)
    told = await here.look()
    assert (told.controller.state, told.controller.detail) == ("silent", "no answer within 0.5 s")
    assert (told.controller.seq, told.rolled_back, control.asked) == (7, WRITING.rolled_back, 2)
    control.answers.put_nowait(WRITING)
    assert await here.look() == WRITING


async def test_one_that_never_said_anything_is_silent(clock: FakeClock) -> None:
    control = FakeControl()
    here = ControlPlane(control.rollouts, clock=clock)
    told = await here.look()
    assert (told.controller.state, told.rollouts) == ("silent", ())
    here.close()


@pytest.mark.parametrize("answer", [ReplicaUnavailable("the control plane didn't answer: ActorDiedError")])
async def test_why_there_is_no_answer_is_told(clock: FakeClock, answer: Exception) -> None:
    control = FakeControl()
    control.answers.put_nowait(answer)
    told = await ControlPlane(control.rollouts, clock=clock).look()
    assert (told.controller.state, told.controller.detail) == ("silent", str(answer))


async def test_how_a_question_ended_after_everybody_had_left_is_not_told_later(clock: FakeClock) -> None:
    control = FakeControl()
    here = ControlPlane(control.rollouts, clock=clock)
    await here.look()
    control.answers.put_nowait(ReplicaUnavailable("the control plane didn't answer within 15 s"))
    await asyncio.sleep(60)
    control.answers.put_nowait(WRITING)
    assert await here.look() == WRITING


async def test_an_answer_that_came_after_everybody_had_left_is_kept(clock: FakeClock) -> None:
    control = FakeControl()
    here = ControlPlane(control.rollouts, clock=clock)
    await here.look()
    control.answers.put_nowait(WRITING)
    await asyncio.sleep(60)
    told = await here.look()
    assert (told.controller.state, told.controller.seq, control.asked) == ("silent", 7, 2)
    here.close()


async def test_who_waits_while_the_gateway_leaves_is_told_all_but_that(clock: FakeClock) -> None:
    here = ControlPlane(FakeControl().rollouts, clock=clock)
    asked = asyncio.ensure_future(here.look())
    await asyncio.sleep(0.1)
    here.close()
    assert (await asked).controller.detail == "this gateway leaves"


async def test_an_answer_of_another_release_is_none(clock: FakeClock) -> None:
    async def other() -> bytes:
        return json.dumps({"controller": "new"}).encode()

    ask: Callable[[], Awaitable[bytes]] = other
    assert (await ControlPlane(ask, clock=clock).look()).controller.state == "silent"


async def test_what_lies_in_files_is_looked_up_now_and_then(clock: FakeClock) -> None:
    reads: list[Any] = []

    def read() -> dict[tuple[str, str], int]:
        reads.append(clock.now)
        return {("m", "v1"): len(reads)}

    here: Seldom[dict[tuple[str, str], int]] = Seldom(read, {}, clock=clock)
    assert (await here.look(), await here.look()) == ({("m", "v1"): 1}, {("m", "v1"): 1})
    clock.advance(READ_EVERY_S)
    assert await here.look() == {("m", "v1"): 2}


async def test_what_cant_be_read_once_is_as_it_was(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[int | Exception] = [1, OSError("gone"), 3]

    def read() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    here: Seldom[int] = Seldom(read, 0, clock=clock)
    seen = []
    for _ in range(3):
        seen.append(await here.look())
        clock.advance(READ_EVERY_S)
    assert seen == [1, 1, 3]
    assert "can't be read" in caplog.text
