"""HTTP/1.1 on one connection: bytes to whole requests, one answer after the other, bytes back.

llhttp (through httptools) reads the syntax; this adds what a gateway needs and a general server doesn't give: one
write for an answer, cancellation of the work when the client goes away, and nothing else. Not here: accepting and
closing (``serving.ingress.listener``), what is answered (``serving.ingress.routes``), how an answer without an end is
sent (``serving.ingress.streaming``).
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import httptools

from serving.channel.busy_poll import BusyPoll
from serving.errors import PayloadTooLarge, RequestError
from serving.ingress.http import Header, HttpRequest, HttpResponse, HttpStream, Response
from serving.ingress.streaming import Outlet
from serving.protocol.status import error_body, error_response

log = logging.getLogger("holdfast.http")

HEADERS_MAX_BYTES: Final = 64 << 10
JOIN_BELOW_BYTES: Final = 64 << 10
PIPELINED_MAX: Final = 16
LINGER_S: Final = 10.0
"""How long the rest of a refused request is read, and thrown away: closing at once would make the kernel reset the
connection, and the client, still sending, would never see the answer (RFC 9112, 9.6)."""
REMEMBERED_MAX_BYTES: Final = 256
_URLS_MAX: Final = 1024
_AROUND_HEADER_BYTES: Final = len(": \r\n")

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n"
_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"

Answer = Callable[[HttpRequest], Awaitable[Response]]


class Host(Protocol):
    """The listener that a connection belongs to."""

    @property
    def answer(self) -> Answer: ...

    @property
    def body_max_bytes(self) -> int: ...

    @property
    def busy_poll(self) -> BusyPoll: ...

    @property
    def closing(self) -> bool: ...

    @property
    def date_header(self) -> bytes:
        """The header of this second, with its line end."""
        ...

    @property
    def paths(self) -> dict[bytes, str]:
        """Request targets that were seen, and their decoded paths."""
        ...

    under_way: int
    """Requests that are being answered, on all connections; not those whose answer only goes on and on."""

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class _Reading:
    """The request that is being read. ``body`` is its first part, or all of it together if it comes in more.

    A list of parts would take up a multiple of them if they are small, as chunks may be.
    """

    __slots__ = ("body", "expects", "header_bytes", "headers", "in_body", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.header_bytes = 0
        self.in_body = False
        self.expects = False  # its client waits for 100 Continue
        self.body: bytes | bytearray = b""


class _TooMuch(Exception):
    """Carries the answer to a request that is too large to be read to its end."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__()
        self.response = response


class Connection(asyncio.Protocol):
    """One client, or HAProxy."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading = _Reading()
        self._waiting: deque[tuple[HttpRequest, bool, bool]] = deque()  # with what ``_respond`` wants to know
        self._task: asyncio.Task[None] | None = None
        self._outlet: Outlet | None = None
        self._writable = True
        self._lingering: asyncio.TimerHandle | None = None
        self._arriving = False  # a request has begun to come, and isn't whole yet
        self._last = False  # no request but one that is arriving is taken any more; the last answer ends the connection
        self.quiet_since = self._loop.time()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        self._host.closed(self)

    def data_received(self, data: bytes) -> None:
        self._host.busy_poll.woken()
        if self._last and not self._arriving:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # we stay with HTTP/1.1; what follows the request can't be read any more
        except httptools.HttpParserCallbackError as error:
            fault = error.__context__
            if not isinstance(fault, _TooMuch):
                raise
            self._refuse(fault.response)
        except httptools.HttpParserError as error:
            self._refuse(HttpResponse(400, [_JSON], error_body(f"this isn't HTTP/1.1: {error}")))
        if self._arriving:
            self.quiet_since = self._loop.time()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._outlet is not None:
            self._outlet.resume()
        self._next()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._reading = _Reading()
        self._arriving = True

    def on_url(self, url: bytes) -> None:
        reading = self._reading
        reading.url += url
        if len(reading.url) > HEADERS_MAX_BYTES:
            raise _TooMuch(_headers_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        reading = self._reading
        reading.header_bytes += len(name) + len(value) + _AROUND_HEADER_BYTES
        if reading.header_bytes > HEADERS_MAX_BYTES:
            raise _TooMuch(_headers_too_large())
        if reading.in_body:
            return  # a trailer: it comes too late to say anything of the request (RFC 9110, 6.5.1)
        name = name.lower()
        if name in reading.headers:
            value = reading.headers[name] + b", " + value
        reading.headers[name] = value

    def on_headers_complete(self) -> None:
        self._reading.in_body = True
        headers = self._reading.headers
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._host.body_max_bytes:
            raise _TooMuch(self._body_too_large())
        if b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and not self._is_old():
            self._reading.expects = True
            self._next()

    def on_body(self, body: bytes) -> None:
        reading = self._reading
        if not reading.body:
            reading.body = body
        elif isinstance(reading.body, bytearray):
            reading.body += body
        else:
            reading.body = bytearray(reading.body) + body
        if len(reading.body) > self._host.body_max_bytes:
            raise _TooMuch(self._body_too_large())

    def on_message_complete(self) -> None:
        self._arriving = False
        reading = self._reading
        body, reading.body = bytes(reading.body), b""  # a connection that is idle later on shall keep none
        path = self._host.paths.get(reading.url) or self._path(reading.url)
        request = HttpRequest(self._parser.get_method().decode("ascii"), path, reading.headers, body, reading.url)
        keep_alive = self._parser.should_keep_alive()
        old = keep_alive and b"connection" in reading.headers and self._is_old()  # without it HTTP/1.0 isn't kept alive
        self._waiting.append((request, keep_alive, old))
        if len(self._waiting) >= PIPELINED_MAX and self._transport is not None:
            self._transport.pause_reading()
        self._next()

    # Answers

    @property
    def busy(self) -> bool:
        """Whether a request is being answered or waits for it; not while one is still arriving."""
        return self._task is not None or bool(self._waiting)

    def finish(self) -> None:
        """Close once the request under way or arriving, if any, is answered. A stream has no end, so it ends now."""
        self._last = True
        if self._outlet is not None:
            self._outlet.end()
        if not self.busy and not self._arriving:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        """Begin to answer the request whose turn it is, or let its client send the rest of it."""
        reading = self._reading
        if self._task is not None or not self._writable or not (self._waiting or reading.expects):
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._waiting:
            request, keep_alive, old = self._waiting.popleft()
            if len(self._waiting) == PIPELINED_MAX - 1:
                transport.resume_reading()
            self._task = self._loop.create_task(self._respond(request, keep_alive=keep_alive, old=old))
        elif self._arriving and not reading.body:
            reading.expects = False
            transport.write(_CONTINUE)

    async def _respond(self, request: HttpRequest, *, keep_alive: bool, old: bool) -> None:
        """``old``: the client speaks HTTP/1.0, which has no chunks, and is told that the connection stays."""
        self._host.under_way += 1  # not by who starts the task, which may be cancelled before it takes a step
        try:
            response = await self._host.answer(request)
            stay = keep_alive and not self._host.closing and not (self._last and not self._waiting)
            if isinstance(response, HttpStream):
                stay = await self._stream(response, stay=stay and not old, head_only=request.method == "HEAD")
            else:
                connection = _CLOSE if not stay else _KEEP_ALIVE if old else b""
                self._write(response, connection, head_only=request.method == "HEAD")
            if not stay:
                self._last = True
                self._waiting.clear()
                self.close()
        finally:
            self._host.under_way -= 1
            if not self._host.under_way:
                self._host.busy_poll.rest()
            self._task = None
            self.quiet_since = self._loop.time()
        self._next()

    def _write(self, response: HttpResponse, connection: bytes, *, head_only: bool) -> None:
        if self._transport is None:
            return
        body = response.body
        parts = self._head(response.status, response.headers, connection)
        if response.status == 304:  # its length would be that of what isn't sent
            parts.append(b"\r\n")
        else:
            parts.append(b"content-length: %d\r\n\r\n" % len(body))
        if head_only:
            body = b""
        if len(body) < JOIN_BELOW_BYTES:
            parts.append(body)
            self._transport.write(b"".join(parts))
        else:
            self._transport.write(b"".join(parts))
            self._transport.write(body)

    def _head(self, status: int, headers: list[Header], connection: bytes) -> list[bytes]:
        """Everything up to what says where the body ends; ``connection`` is the header of that name or nothing."""
        parts = [_STATUS_LINES[status], self._host.date_header]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if connection:
            parts.append(connection)
        return parts

    async def _stream(self, stream: HttpStream, *, stay: bool, head_only: bool) -> bool:
        """Send all of it, or as much as the client or our own leaving allows; whether the connection can stay."""
        transport = self._transport
        if transport is None:
            await stream.chunks.aclose()
            return False
        outlet = self._outlet = Outlet(transport, writable=lambda: self._writable, chunked=stay)
        if self._host.closing:
            outlet.end()
        self._host.under_way -= 1  # to be watched is no work: neither autoscaling nor a drain waits for it
        try:
            head = b"".join(self._head(stream.status, stream.headers, b"" if stay else _CLOSE))
            return await outlet.send(stream.chunks, head=head, head_only=head_only) and not self._last
        finally:
            self._host.under_way += 1
            self._outlet = None

    def _refuse(self, response: HttpResponse) -> None:
        """Answer a request that can't be read to its end, after those before it, and close."""
        self._last = True
        self._arriving = False
        if not self.busy:
            self._write(response, _CLOSE, head_only=False)
            self._linger()
        # else: the answers under way go out, then the connection closes; the broken request gets none

    def _linger(self) -> None:
        """Say that no more will come, and close once the client has closed, or after ``LINGER_S``."""
        if self._transport is not None:
            self._transport.write_eof()
            self._lingering = self._loop.call_later(LINGER_S, self.close)

    def _is_old(self) -> bool:
        """Whether the request that is being read is one of HTTP/1.0. Not asked of every request: it takes a while."""
        return bool(self._parser.get_http_version() == "1.0")

    def _body_too_large(self) -> HttpResponse:
        fault: RequestError = PayloadTooLarge(f"the body has more than {self._host.body_max_bytes} bytes")
        return HttpResponse(*error_response(fault))

    def _path(self, url: bytes) -> str:
        """The decoded path of a request target, without its query; remembered, because clients repeat themselves."""
        try:
            raw = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            raw = url
        path = unquote(raw.decode("latin-1"))
        paths = self._host.paths
        if len(url) > REMEMBERED_MAX_BYTES:
            return path
        if len(paths) >= _URLS_MAX:
            paths.clear()
        paths[url] = path
        return path


_JSON: Final = (b"content-type", b"application/json")


def _headers_too_large() -> HttpResponse:
    return HttpResponse(431, [_JSON], error_body(f"the request's headers have more than {HEADERS_MAX_BYTES} bytes"))
