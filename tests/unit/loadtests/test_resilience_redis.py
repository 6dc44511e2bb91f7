"""The proxy that makes Redis slow, in front of something that repeats what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.resilience.redis import SlowProxy


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


@asynccontextmanager
async def proxied(socket: Path) -> AsyncIterator[SlowProxy]:
    server = await asyncio.start_unix_server(repeat, str(socket))
    proxy = SlowProxy(socket)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()
        await server.wait_closed()


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, float]:
    """What comes back, and after how long."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.write(b"kelp\n")
    return await reader.readline(), loop.time() - began


async def test_answers_pass_and_are_late_only_while_it_is_slow(socket_dir: Path) -> None:
    async with proxied(socket_dir / "s") as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert (await said(reader, writer))[0] == b"kelp\n"
        proxy.delay_s = 0.2
        line, seconds = await said(reader, writer)
        assert line == b"kelp\n"
        assert seconds >= 0.2
        assert proxy.connections == 1
        writer.close()


async def test_without_a_server_behind_it_the_connection_just_ends(socket_dir: Path) -> None:
    proxy = SlowProxy(socket_dir / "nobody")
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await reader.read() == b""
    writer.close()
    await proxy.close()
