"""A small HTTP/1.1 client with kept connections, for many requests a second on one thread.

httptools, which the gateway has anyway, parses the answers: it takes little of the two cores that the system under
test needs, and nothing is sent twice behind our back, as cleverer clients do. So each error here is one that a
client would have seen.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import httptools


class Reply(NamedTuple):
    """A whole response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """The connection broke, or the time was up, before a whole answer was there."""


def encode(method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A request's bytes, made once for many sendings."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


class Pool:
    """Connections to one address; as many as there are requests at once."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def send(self, request: bytes, *, timeout_s: float) -> Reply:
        """The answer. Raises `NoReply`; a cancelled or late request takes its connection with it."""
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._reuse() or await self._connect()
                reply = await connection.exchange(request)
        except TimeoutError:
            raise NoReply(f"no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise NoReply(str(error) or type(error).__name__) from None
        finally:
            if connection is not None:
                self._give_back(connection)
        return reply

    async def ask(self, method: str, path: str, document: Any = None, *, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Status and JSON of an answer; what isn't JSON comes as text."""
        body = b"" if document is None else json.dumps(document).encode()
        reply = await self.send(encode(method, path, body), timeout_s=timeout_s)
        try:
            return reply.status, json.loads(reply.body or b"null")
        except ValueError:
            return reply.status, reply.body.decode(errors="replace")

    def close(self) -> None:
        for connection in list(self._all):
            connection.close()
        self._idle.clear()
        self._all.clear()

    def _reuse(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
            self._all.discard(connection)
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        self._all.add(connection)
        return connection

    def _give_back(self, connection: "_Connection") -> None:
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
            self._all.discard(connection)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._keep = True

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        return self.open and self._keep and self._answer is None

    async def exchange(self, request: bytes) -> Reply:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed before the request was sent")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        reply = await self._answer
        self._answer = None  # only now: whoever is cancelled before leaves a connection that owes an answer
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("closed before the answer"))

    # httptools calls these

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._keep = self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(self._parser.get_status_code(), self._headers, b"".join(self._body)))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error if isinstance(error, OSError) else ConnectionError(str(error)))
