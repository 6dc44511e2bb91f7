"""Clients that behave badly, many at once: those that never wait, that dawdle, and that stop in the middle.

What becomes of them isn't judged; the users beside them are (`loadtests.users`).
"""

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any, Final

from loadtests.resilience.client import encode

_HOST: Final = "127.0.0.1"
_SIP_S: Final = 0.2
_SIP_BYTES: Final = 64
_AT_ONCE: Final = 50
"""So many connect in the same moment, so that a crowd isn't refused by the kernel's queue."""


def request() -> bytes:
    """A blank image, closed after the answer."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
    body = json.dumps({"inputs": [tensor]}).encode()
    return encode("POST", "/v2/models/digits-lite/infer", body, {"connection": "close"})


async def flood(port: int, *, clients: int, lasts_s: float) -> int:
    """Each connects, asks and goes, again and again; how many requests were sent."""
    sent = 0
    raw = request()

    async def client() -> None:
        nonlocal sent
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(_HOST, port)
                writer.write(raw)
                sent += 1
                await asyncio.sleep(0.1)
                writer.close()
                continue
            await asyncio.sleep(0.1)

    await _for_a_while([client() for _ in range(clients)], lasts_s)
    return sent


async def slow(port: int, *, clients: int, lasts_s: float) -> tuple[int, int]:
    """Each sends and reads sip by sip; how many connected, and how many had a whole answer in that time."""
    connected = answered = 0
    raw = request()
    pause_s = lasts_s / 2 / (len(raw) / _SIP_BYTES)  # half of the time for asking

    async def client(number: int) -> None:
        nonlocal connected, answered
        await asyncio.sleep(number // _AT_ONCE * 0.05)
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(_HOST, port)
            connected += 1
            for at in range(0, len(raw), _SIP_BYTES):
                writer.write(raw[at : at + _SIP_BYTES])
                await asyncio.sleep(pause_s)
            answer = b""
            while sip := await reader.read(_SIP_BYTES):
                answer += sip
                await asyncio.sleep(_SIP_S)
            answered += answer.startswith(b"HTTP/1.1 200")
            writer.close()

    await _for_a_while([client(number) for number in range(clients)], lasts_s + 3)
    return connected, answered


async def half_open(port: int, *, clients: int, lasts_s: float) -> int:
    """Each sends half a request and then nothing; how many connected."""
    connected = 0
    raw = request()

    async def client(number: int) -> None:
        nonlocal connected
        await asyncio.sleep(number // _AT_ONCE * 0.05)
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(_HOST, port)
            writer.write(raw[: len(raw) // 2])
            connected += 1
            try:
                await asyncio.sleep(lasts_s)
            finally:
                writer.close()

    await _for_a_while([client(number) for number in range(clients)], lasts_s + 3)
    return connected


async def _for_a_while(clients: list[Coroutine[Any, Any, None]], seconds: float) -> None:
    tasks = [asyncio.ensure_future(client) for client in clients]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
