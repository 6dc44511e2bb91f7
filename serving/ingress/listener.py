"""The gateway replica's own HTTP listener: the first free port of the range, served on the replica's loop.

Not here: the routes, HAProxy in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from serving.settings import HttpSettings


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
        except OSError:
            listener.close()
            continue
        listener.setblocking(False)
        return listener
    raise NoFreePort(f"http.gateway_ports: no free port from {first} to {last} on {host}")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: Ray owns the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Serves an ASGI app until closed."""

    def __init__(self, app: Any, http: HttpSettings) -> None:
        self._socket = take_port(http.gateway_host, *http.gateway_ports)
        self.port: int = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                loop="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=round(http.idle_timeout_s) + 5,  # HAProxy closes idle connections first
                backlog=4096,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise NoFreePort(f"the listener on port {self.port} didn't start")
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Stop listening, let the requests that are under way finish, close every connection."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
