"""Crowds of badly behaved clients, against a listener that only watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from loadtests.chaos import crowds

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def watched(answer: Answer) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return server, port


def test_a_slow_client_sends_all_of_it_and_has_its_answer() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(len(crowds.request())))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async def play() -> tuple[int, int]:
        server, port = await watched(answer)
        async with server:
            return await crowds.slow(port, clients=3, lasts_s=0.4)

    assert asyncio.run(play()) == (3, 3)
    assert heard == [crowds.request()] * 3


def test_a_half_open_client_stops_in_the_middle() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    async def play() -> int:
        server, port = await watched(answer)
        async with server:
            connected = await crowds.half_open(port, clients=2, lasts_s=0.2)
            while len(heard) < 2:  # noqa: ASYNC110  # a listener has no event for that
                await asyncio.sleep(0.01)
            return connected

    assert asyncio.run(play()) == 2
    assert heard == [crowds.request()[: len(crowds.request()) // 2]] * 2


def test_a_flood_comes_again_and_again_and_ends() -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async def play() -> int:
        server, port = await watched(answer)
        async with server:
            return await crowds.flood(port, clients=4, lasts_s=0.5)

    sent = asyncio.run(play())
    assert sent >= 8
    assert connections == pytest.approx(sent, abs=4)
