"""One connection: whole requests in, whole answers out, in order, whatever the bytes come cut into."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.channel.busy_poll import BusyPoll
from serving.ingress.connection import HEADERS_MAX_BYTES, PIPELINED_MAX, Connection
from serving.ingress.http import HttpRequest, HttpResponse
from tests.fakes import FakeClock, run, settled

BODY_MAX = 100
DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
POST = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /a%20b?q=1 HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-one: 2\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Remembers what was written, and whether the connection was closed and reading paused."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written = b""
        self.closed = False
        self.ended = False
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class FakeHost:
    """Answers with the request's own body, at once or when the test says so."""

    def __init__(self, *, slow: bool = False) -> None:
        self.body_max_bytes = BODY_MAX
        self.closing = False
        self.date_header = DATE
        self.paths: dict[bytes, str] = {}
        self.under_way = 0
        self.busy_poll = BusyPoll(FakeClock(), limit_s=0.0)
        self.connections: set[Connection] = set()
        self.requests: list[HttpRequest] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        if not slow:
            self.gate.set()

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return HttpResponse(200, [(b"content-type", b"text/plain")], request.body or request.path.encode())

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)


def connect(host: FakeHost) -> tuple[Connection, FakeTransport]:
    connection = Connection(host)
    transport = FakeTransport(connection)
    connection.connection_made(transport)
    return connection, transport


def ok(body: bytes, *, close: bool = False) -> bytes:
    last = b"connection: close\r\n" if close else b""
    head = b"HTTP/1.1 200 OK\r\n" + DATE + b"content-type: text/plain\r\n" + last
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


async def test_an_answer_is_written_and_the_connection_stays() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(POST)
    await settled(20)
    assert transport.written == ok(b"hello")
    assert not transport.closed


async def test_paths_are_decoded_without_their_query_and_repeated_headers_joined() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    connection.data_received(GET)
    await settled(20)
    assert (host.requests[0].path, host.requests[0].url) == ("/a b", b"/a%20b?q=1")
    assert host.requests[0].headers[b"x-one"] == b"1, 2"
    assert transport.written == ok(b"/a b")


async def test_a_header_that_is_repeated_counts_once_for_each_time() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    line = b"X-Forwarded-For: " + b"10.0.0.1, " * 10 + b"\r\n"
    times = HEADERS_MAX_BYTES // len(line)
    connection.data_received(b"GET / HTTP/1.1\r\n" + line * times + b"\r\n")
    await settled(20)
    assert len(host.requests[0].headers[b"x-forwarded-for"].split(b", 10.")) == 10 * times
    assert transport.written == ok(b"/")


async def test_headers_count_with_what_is_around_them() -> None:
    """Else a hundred thousand empty ones would fit."""
    connection, transport = connect(FakeHost())
    connection.data_received(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (HEADERS_MAX_BYTES // 5 + 1) + b"\r\n")
    assert transport.written.startswith(b"HTTP/1.1 431 ")
    connection.connection_lost(None)


@given(st.lists(st.integers(1, 30), max_size=20))
def test_requests_may_come_cut_anywhere_and_many_at_once(cuts: list[int]) -> None:
    async def play() -> bytes:
        connection, transport = connect(FakeHost())
        rest = POST + GET + POST
        for cut in cuts:
            connection.data_received(rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(0)
        connection.data_received(rest)
        await settled(20)
        connection.connection_lost(None)
        return transport.written

    assert run(play(), FakeClock()) == ok(b"hello") + ok(b"/a b") + ok(b"hello")


async def test_a_chunked_body_is_put_together() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    await settled(20)
    assert transport.written == ok(b"abcde")


async def test_a_body_of_tiny_chunks_takes_up_hardly_more_than_itself() -> None:
    size = 200_000
    host = FakeHost()
    host.body_max_bytes = size
    connection, _ = connect(host)
    connection.data_received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    some = b"1\r\nx\r\n" * 1000
    tracemalloc.start()
    try:
        for _ in range(size // 1000):
            connection.data_received(some)
        assert tracemalloc.get_traced_memory()[0] < 2 * size
    finally:
        tracemalloc.stop()
    connection.data_received(b"0\r\n\r\n")
    await settled(20)
    assert host.requests[0].body == b"x" * size


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-One: 1\r\n\r\n2\r\nok\r\n0\r\n"


async def test_a_trailer_is_no_header() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    connection.data_received(CHUNKED + b"X-One: 2\r\nContent-Encoding: gzip\r\n\r\n" + GET)
    await settled(20)
    assert host.requests[0].headers == {b"transfer-encoding": b"chunked", b"x-one": b"1"}
    assert host.requests[1].headers[b"x-one"] == b"1, 2"
    assert transport.written == ok(b"ok") + ok(b"/a b")


async def test_trailers_count_with_the_headers() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(CHUNKED + b"X: " + b"x" * HEADERS_MAX_BYTES + b"\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 431 ")
    connection.connection_lost(None)


async def test_who_expects_100_continue_gets_it_before_the_body() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"ok")
    await settled(20)
    assert transport.written.endswith(ok(b"ok"))


EXPECTING = b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"


async def test_100_continue_waits_for_the_answers_before_it() -> None:
    host = FakeHost(slow=True)
    connection, transport = connect(host)
    connection.data_received(POST + POST + EXPECTING)
    await settled(20)
    assert transport.written == b""
    host.gate.set()
    await settled(20)
    assert transport.written == ok(b"hello") * 2 + b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.data_received(b"ok")
    await settled(20)
    assert transport.written == ok(b"hello") * 2 + b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"ok")


@pytest.mark.parametrize("rest", [b"o", b"ok"])
async def test_who_did_not_wait_for_100_continue_gets_none_afterwards(rest: bytes) -> None:
    host = FakeHost(slow=True)
    connection, transport = connect(host)
    connection.data_received(POST + EXPECTING + rest)
    host.gate.set()
    await settled(20)
    connection.data_received(b"ok"[len(rest) :])
    await settled(20)
    assert transport.written == ok(b"hello") + ok(b"ok")


async def test_on_a_connection_that_closes_nobody_is_told_to_go_on() -> None:
    host = FakeHost(slow=True)
    connection, transport = connect(host)
    connection.data_received(POST + EXPECTING)
    await settled(20)
    host.closing = True
    connection.finish()
    host.gate.set()
    await settled(20)
    assert transport.written == ok(b"hello", close=True)
    assert transport.closed


class Unchanged(FakeHost):
    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return HttpResponse(304, [(b"etag", b'"1"')], b"")


async def test_what_is_known_already_has_no_length_and_the_connection_stays() -> None:
    connection, transport = connect(Unchanged())
    connection.data_received(GET + GET)
    await settled(20)
    assert transport.written == 2 * (b"HTTP/1.1 304 Not Modified\r\n" + DATE + b'etag: "1"\r\n\r\n')
    assert not transport.closed


async def test_head_gets_the_length_but_not_the_body() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(b"HEAD /path HTTP/1.1\r\n\r\n")
    await settled(20)
    assert transport.written == ok(b"/path").removesuffix(b"/path")


@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"],
)
async def test_a_client_that_wants_it_so_is_hung_up_on_after_its_answer(request_: bytes) -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(request_)
    await settled(20)
    assert transport.written == ok(b"/", close=True)
    assert transport.closed


async def test_a_client_of_http_1_0_that_wants_to_stay_is_told_that_it_may() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    old = b"GET /o HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    connection.data_received(old + GET)
    await settled(20)
    head = b"HTTP/1.1 200 OK\r\n" + DATE + b"content-type: text/plain\r\nconnection: keep-alive\r\n"
    assert transport.written == head + b"content-length: 2\r\n\r\n/o" + ok(b"/a b")
    assert not transport.closed
    host.closing = True
    connection.data_received(old)
    await settled(20)
    assert transport.written.endswith(ok(b"/o", close=True))


async def test_http_1_0_knows_no_100_continue() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(b"POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert transport.written == b""
    connection.data_received(b"ok")
    await settled(20)
    assert transport.written == ok(b"ok", close=True)


async def test_pipelined_requests_are_answered_one_after_the_other_and_reading_waits_for_them() -> None:
    host = FakeHost(slow=True)
    connection, transport = connect(host)
    connection.data_received(POST * (PIPELINED_MAX + 1))
    await settled(20)
    assert len(host.requests) == 1
    assert transport.paused
    host.gate.set()
    await settled(20)
    await settled(20)
    assert transport.written == ok(b"hello") * (PIPELINED_MAX + 1)
    assert not transport.paused


async def test_a_client_that_goes_away_takes_its_work_with_it() -> None:
    host = FakeHost(slow=True)
    connection, _ = connect(host)
    connection.data_received(POST + POST)
    await settled(20)
    connection.connection_lost(None)
    await settled(20)
    assert (host.cancelled, len(host.requests), host.under_way) == (1, 1, 0)
    assert host.connections == set()


async def test_a_client_that_pipelines_and_goes_away_leaves_nothing_counted_as_under_way() -> None:
    host = FakeHost()
    connection, _ = connect(host)
    connection.data_received(POST + POST)
    await asyncio.sleep(0)  # the first is answered, and the second's turn has come
    connection.connection_lost(None)
    await settled(20)
    assert (len(host.requests), host.under_way) == (1, 0)


async def test_on_a_connection_that_closes_no_request_is_begun() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    transport.close()
    connection.data_received(POST)
    await settled(20)
    assert host.requests == []


TOO_MUCH = [
    (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", b"413"),
    (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n", b"413"),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * HEADERS_MAX_BYTES + b"\r\n\r\n", b"431"),
    (b"GET /" + b"x" * HEADERS_MAX_BYTES + b" HTTP/1.1\r\n\r\n", b"431"),
    (b"hello?\r\n\r\n", b"400"),
    (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
]


@pytest.mark.parametrize(("request_", "status"), TOO_MUCH)
async def test_what_cannot_be_read_is_refused_with_json_and_nothing_after_it_is_read(
    request_: bytes, status: bytes
) -> None:
    host = FakeHost()
    connection, transport = connect(host)
    connection.data_received(request_)
    connection.data_received(POST)
    await settled(20)
    assert transport.written.startswith(b"HTTP/1.1 " + status)
    assert b'{"error":' in transport.written
    assert b"connection: close" in transport.written
    assert host.requests == []
    assert transport.ended
    connection.connection_lost(None)


async def test_a_broken_request_behind_a_good_one_does_not_cost_the_good_one_its_answer() -> None:
    host = FakeHost(slow=True)
    connection, transport = connect(host)
    connection.data_received(POST + b"garbage\r\n\r\n")
    host.gate.set()
    await settled(20)
    assert transport.written == ok(b"hello", close=True)
    assert transport.closed


async def test_a_connection_that_shall_finish_answers_what_it_has_and_closes() -> None:
    host = FakeHost(slow=True)
    connection, transport = connect(host)
    idle, idle_transport = connect(host)
    connection.data_received(POST)
    await settled(20)
    connection.finish()
    idle.finish()
    assert idle_transport.closed
    assert not transport.closed
    host.gate.set()
    await settled(20)
    assert transport.written == ok(b"hello", close=True)
    assert transport.closed


async def test_a_connection_that_shall_finish_waits_for_the_rest_of_a_request_but_takes_no_other() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    connection.data_received(POST[:-2])
    host.closing = True
    connection.finish()
    assert not transport.closed
    connection.data_received(POST[-2:] + GET)
    connection.data_received(GET)
    await settled(20)
    assert transport.written == ok(b"hello", close=True)
    assert (transport.closed, len(host.requests)) == (True, 1)


async def test_a_request_that_goes_on_arriving_is_not_quiet(clock: FakeClock) -> None:
    connection, _ = connect(FakeHost())
    for part in (POST[:5], POST[5:-2]):
        clock.advance(50)
        connection.data_received(part)
        assert connection.quiet_since == clock.now
    assert not connection.busy  # else a request that stalls would be kept for good
    connection.connection_lost(None)


async def test_a_slow_reader_gets_no_second_answer_before_it_has_read_the_first() -> None:
    host = FakeHost()
    connection, transport = connect(host)
    connection.pause_writing()
    connection.data_received(POST)
    await settled(20)
    assert host.requests == []
    connection.resume_writing()
    await settled(20)
    assert transport.written == ok(b"hello")


async def test_an_upgrade_is_answered_as_the_plain_request_that_it_is() -> None:
    connection, transport = connect(FakeHost())
    connection.data_received(b"GET /u HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await settled(20)
    assert transport.written == ok(b"/u", close=True)


@given(st.binary(max_size=300))
def test_whatever_comes_in_the_connection_survives_or_says_why_not(data: bytes) -> None:
    async def play() -> None:
        connection, transport = connect(FakeHost())
        connection.data_received(data)
        await settled(20)
        assert transport.written == b"" or transport.written.startswith(b"HTTP/1.1 ")
        connection.connection_lost(None)
        await settled(20)

    run(play(), FakeClock())
