"""An answer without an end: it goes out as it comes, waits for a slow reader, and keeps nobody from leaving."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from serving.channel.busy_poll import BusyPoll
from serving.clock import SystemClock
from serving.ingress import streaming
from serving.ingress.asgi import AsgiApp, Message
from serving.ingress.connection import Connection
from serving.ingress.http import HttpRequest, HttpStream
from serving.ingress.listener import Listener
from serving.ingress.streaming import STALLED_S
from serving.settings import HttpSettings
from tests.fakes import FakeClock, settled

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
GET = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n" + DATE + b"content-type: text/plain\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
CLOSE = b"connection: close\r\n"


class Source:
    """What a stream says: whatever the test puts in, until it says that this was all."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.asked = 0
        self.closed = 0

    def say(self, *chunks: bytes | Exception | None) -> None:
        for chunk in chunks:
            self.queue.put_nowait(chunk)

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                self.asked += 1
                said = await self.queue.get()
                if isinstance(said, Exception):
                    raise said
                if said is None:
                    return
                yield said
        finally:
            self.closed += 1


class FakeTransport(asyncio.Transport):
    """Keeps what the client hasn't read, and says when that is too much."""

    def __init__(self, connection: Connection, *, room: int = 1 << 20) -> None:
        super().__init__()
        self.connection = connection
        self.room = room
        self.written = b""
        self.unread = 0
        self.reads = True
        self.closed = False
        self.aborted = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += bytes(data)
        if not self.reads:
            self.unread += len(data)
            if self.unread > self.room:
                self.connection.pause_writing()

    def read_on(self) -> None:
        self.reads, self.unread = True, 0
        self.connection.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.unread:
                asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        self.aborted = self.closed = True
        asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def resume_reading(self) -> None:
        pass


class FakeHost:
    """Answers everything with one stream."""

    def __init__(self, source: Source) -> None:
        self.body_max_bytes = 100
        self.closing = False
        self.date_header = DATE
        self.paths: dict[bytes, str] = {}
        self.under_way = 0
        self.busy_poll = BusyPoll(FakeClock(), limit_s=0.0)
        self.connections: set[Connection] = set()
        self.source = source

    async def answer(self, request: HttpRequest) -> HttpStream:
        return HttpStream(200, [(b"content-type", b"text/plain")], self.source.chunks())

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)


class Watched:
    """A connection on which a stream has begun."""

    def __init__(self, request: bytes = GET, *, room: int = 1 << 20, closing: bool = False) -> None:
        self.source = Source()
        self.host = FakeHost(self.source)
        self.host.closing = closing
        self.connection = Connection(self.host)
        self.transport = FakeTransport(self.connection, room=room)
        self.connection.connection_made(self.transport)
        self.connection.data_received(request)

    async def hang_up(self) -> None:
        if self.host.connections:
            self.connection.connection_lost(None)
        await settled()
        assert (self.host.connections, self.host.under_way, self.source.closed) == (set(), 0, 1)


async def test_each_chunk_leaves_when_it_comes() -> None:
    here = Watched()
    await settled()
    assert here.transport.written == HEAD + CHUNKED
    here.source.say(b"one")
    await settled()
    assert here.transport.written == HEAD + CHUNKED + b"3\r\none\r\n"
    here.source.say(b"x" * 20)
    await settled()
    assert here.transport.written.endswith(b"14\r\n" + b"x" * 20 + b"\r\n")
    await here.hang_up()


async def test_one_that_ends_leaves_the_connection_for_the_next_request() -> None:
    here = Watched()
    here.source.say(b"one", None)
    await settled(20)
    first = HEAD + CHUNKED + b"3\r\none\r\n0\r\n\r\n"
    assert (here.transport.written, here.source.closed) == (first, 1)
    here.source.say(None)
    here.connection.data_received(GET)
    await settled(20)
    assert here.transport.written == first + HEAD + CHUNKED + b"0\r\n\r\n"
    assert not here.transport.closed
    here.connection.connection_lost(None)


@pytest.mark.parametrize("request_", [b"GET /live HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"])
async def test_who_knows_no_chunks_or_wants_no_more_is_told_the_end_by_the_connections(request_: bytes) -> None:
    here = Watched(request_)
    here.source.say(b"one", b"two", None)
    await settled(20)
    assert here.transport.written == HEAD + CLOSE + b"\r\n" + b"onetwo"
    assert here.transport.closed


async def test_a_client_of_http_1_0_gets_no_chunks_though_it_would_stay() -> None:
    here = Watched(b"GET /live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    here.source.say(b"one", b"two", None)
    await settled(20)
    assert here.transport.written == HEAD + CLOSE + b"\r\n" + b"onetwo"
    assert here.transport.closed


async def test_head_gets_no_body_and_nothing_is_asked_for() -> None:
    here = Watched(b"HEAD /live HTTP/1.1\r\n\r\n")
    await settled(20)
    assert (here.transport.written, here.source.asked) == (HEAD + CHUNKED, 0)
    assert not here.transport.closed
    here.connection.connection_lost(None)


async def test_to_be_watched_is_no_work_that_is_under_way() -> None:
    here = Watched()
    await settled()
    assert (here.host.under_way, here.connection.busy) == (0, True)
    here.source.say(None)
    await settled(20)
    assert (here.host.under_way, here.connection.busy) == (0, False)
    here.connection.connection_lost(None)


async def test_a_client_that_goes_ends_it() -> None:
    here = Watched()
    here.source.say(b"one")
    await settled()
    await here.hang_up()


async def test_a_slow_reader_is_waited_for_and_nothing_is_made_for_it_meanwhile(clock: FakeClock) -> None:
    here = Watched(room=100)
    await settled()
    here.transport.reads = False
    here.source.say(b"x" * 101, b"y", b"z")
    await settled()
    assert (here.source.asked, b"y" in here.transport.written.rpartition(b"x")[2]) == (1, False)
    await asyncio.sleep(STALLED_S - 0.1)
    here.transport.read_on()
    await settled()
    assert (here.source.asked, here.transport.written.endswith(b"1\r\ny\r\n1\r\nz\r\n")) == (4, True)
    await here.hang_up()


async def test_one_that_does_not_read_at_all_is_hung_up_on(clock: FakeClock) -> None:
    here = Watched(room=100)
    await settled()
    here.transport.reads = False
    here.source.say(b"x" * 101, b"y")
    await asyncio.sleep(STALLED_S + 0.1)
    assert here.transport.aborted
    assert here.transport.unread < 120
    await here.hang_up()


async def test_a_gateway_that_leaves_ends_it_at_once_and_the_client_sees_that_it_is_whole() -> None:
    here = Watched()
    here.source.say(b"one")
    await settled()
    here.connection.finish()
    await settled()
    assert here.transport.written.endswith(b"3\r\none\r\n0\r\n\r\n")
    assert here.transport.closed
    await here.hang_up()


async def test_a_gateway_that_leaves_does_not_wait_for_who_has_yet_to_read() -> None:
    here = Watched(room=100)
    await settled()
    here.transport.reads = False
    here.source.say(b"x")
    await settled()
    here.connection.finish()
    await settled()
    assert here.transport.aborted
    await here.hang_up()


async def test_one_that_is_asked_for_while_the_gateway_leaves_ends_before_it_begins() -> None:
    here = Watched(closing=True)
    await settled(20)
    assert here.transport.written == HEAD + CLOSE + b"\r\n"
    assert here.transport.closed
    await here.hang_up()


async def test_one_that_breaks_off_does_not_look_whole(caplog: pytest.LogCaptureFixture) -> None:
    for error in (ValueError("no more"), TimeoutError()):
        here = Watched()
        here.source.say(b"one", error)
        await settled(20)
        assert here.transport.written == HEAD + CHUNKED + b"3\r\none\r\n"
        assert here.transport.aborted
        await here.hang_up()
    assert "a stream broke off" in caplog.text


async def test_over_real_sockets_a_mute_reader_holds_no_more_than_the_buffers_and_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "STALLED_S", 0.2)
    made, ended = 0, asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield b"x" * 65536
        finally:
            ended.set()

    async def answer(request: HttpRequest) -> HttpStream:
        return HttpStream(200, [], chunks())

    listener = Listener(answer, HttpSettings(port=1, gateway_ports=(31_000, 31_999)), clock=SystemClock())
    await listener.start()
    with socket.socket() as mute:
        mute.connect(("127.0.0.1", listener.port))
        mute.sendall(GET)
        await asyncio.wait_for(ended.wait(), 20)
        assert made * 65536 < 32 << 20, "what isn't read must not grow"
        read = b""
        while more := await asyncio.to_thread(mute.recv, 1 << 20):
            read = more
        assert not read.endswith(b"0\r\n\r\n"), "it must not look whole"
    await listener.close()


async def test_a_listener_that_closes_does_not_wait_for_who_watches() -> None:
    source = Source()
    host = FakeHost(source)
    http = HttpSettings(port=1, gateway_ports=(31_000, 31_999), drain_timeout_s=20.0)
    listener = Listener(host.answer, http, clock=SystemClock())
    await listener.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(GET)
    source.say(b"one")
    await reader.readuntil(b"one\r\n")
    await asyncio.wait_for(listener.close(), 5)
    assert (await reader.read(), source.closed) == (b"0\r\n\r\n", 1)
    writer.close()
    await writer.wait_closed()


class Server:
    """An ASGI server that carries one request; the client goes when the test says so."""

    def __init__(self, source: Source, method: str = "GET") -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self._first = True
        host = FakeHost(source)
        app = AsgiApp(body_max_bytes=100, routes=host)  # type: ignore[arg-type]  # of routes it only wants answers
        scope = {"type": "http", "method": method, "path": "/live", "headers": []}
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._first:
            self._first = False
            return {"type": "http.request", "body": b""}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def bodies(self) -> list[tuple[bytes, bool]]:
        return [(message["body"], message.get("more_body", False)) for message in self.sent[1:]]


async def test_serves_own_proxies_get_it_bit_by_bit_too() -> None:
    source = Source()
    server = Server(source)
    source.say(b"one")
    await settled()
    assert server.sent[0] == {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/plain")],
    }
    assert server.bodies == [(b"one", True)]
    source.say(None)
    await server.task
    assert (server.bodies[1:], source.closed) == ([(b"", False)], 1)


async def test_behind_serves_own_proxies_a_client_that_goes_ends_it() -> None:
    source = Source()
    server = Server(source)
    await settled()
    server.gone.set()
    await server.task
    assert (server.bodies, source.closed) == ([], 1)


async def test_behind_serves_own_proxies_head_gets_no_body() -> None:
    source = Source()
    server = Server(source, "HEAD")
    await server.task
    assert (server.bodies, source.asked) == ([(b"", False)], 0)
