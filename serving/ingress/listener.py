"""The gateway replica's own HTTP listener: the first free port of the range, served on the replica's loop.

Not here: HTTP itself (``serving.ingress.connection``), the routes, HAProxy in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from email.utils import formatdate
from typing import Final

from serving.channel.busy_poll import BusyPoll
from serving.clock import Clock
from serving.ingress.connection import Answer, Connection
from serving.settings import HttpSettings

SWEEP_S: Final = 1.0


class NoFreePort(Exception):
    """Every port of the range is taken."""


def take_port(host: str, first: int, last: int) -> socket.socket:
    """A bound socket at the first free port; raises ``NoFreePort``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(first, last + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(4096)
        except OSError:
            listener.close()
            continue
        listener.setblocking(False)
        return listener
    raise NoFreePort(f"http.gateway_ports: no free port from {first} to {last} on {host}")


class Listener:
    """Accepts connections and answers their requests until closed."""

    def __init__(self, answer: Answer, http: HttpSettings, *, clock: Clock, busy_poll_s: float = 0.0) -> None:
        self._socket = take_port(http.gateway_host, *http.gateway_ports)
        self.port: int = self._socket.getsockname()[1]
        self.answer = answer
        self.body_max_bytes = http.body_max_bytes
        self.closing = False
        self.under_way = 0
        self.busy_poll = BusyPoll(clock, limit_s=busy_poll_s)
        self.date_header = b""
        self.paths: dict[bytes, str] = {}
        self._idle_timeout_s = http.idle_timeout_s + 5  # HAProxy, in front, closes idle connections first
        self._drain_timeout_s = http.drain_timeout_s
        self._clock = clock
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep()
        self._server = await loop.create_server(lambda: Connection(self), sock=self._socket, backlog=4096)

    async def close(self) -> None:
        """Stop listening, let the requests that are under way finish within the drain time, close everything."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout_s):
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.close()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _sweep(self) -> None:
        """Once a second: the date for the answers, and an end to connections that have been quiet for too long."""
        loop = asyncio.get_running_loop()
        self.date_header = f"date: {formatdate(self._clock.wall(), usegmt=True)}\r\n".encode()
        quiet_before = loop.time() - self._idle_timeout_s
        for connection in tuple(self._connections):
            if connection.quiet_since < quiet_before and not connection.busy:
                connection.close()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)
