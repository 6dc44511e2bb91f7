"""A system that somebody else has started: it is taken as it is, and what can't be played on it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.chaos import library
from loadtests.chaos.run import Plan, run
from loadtests.chaos.running import RunningSystem, address, running
from loadtests.resilience.errors import RunError

INDEX = [
    {"name": name, "version": version} for name, version in (("digits", "v1"), ("digits", "v2"), ("digits-lite", "v1"))
]
REPLICAS = [
    {"model": "digits", "version": "v1", "replicas": [{"id": "a", "pid": 1}]},
    {"model": "digits", "version": "v2", "replicas": [{"id": name, "pid": 1} for name in ("b", "c", "d")]},
    {"model": "digits-lite", "version": "v1", "replicas": [{"id": "e", "pid": 1}]},
]
ANSWERS: dict[str, tuple[int, Any]] = {
    "/v2/repository/index": (200, INDEX),
    "/v2/holdfast/faults": (200, []),
    "/v2/holdfast/replicas": (200, REPLICAS),
    "/v2/holdfast/gateways": (200, {"accepting": ["x", "y"]}),
    "/v2/holdfast/status": (200, {"models": {"digits": {"stable": "v2"}}}),
}


@contextlib.asynccontextmanager
async def system(**changed: tuple[int, Any]) -> AsyncIterator[str]:
    """The address of something that gives these answers; `changed` ones are named by the end of their path."""
    answers = {path: changed.get(path.rpartition("/")[2], answer) for path, answer in ANSWERS.items()}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            status, answer = answers.get(head.split()[1], (404, {"error": "unknown"}))
            body = json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n".encode())
            writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _head(reader: asyncio.StreamReader) -> str:
    """The head of the next request, with its body read away; empty at the end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    except asyncio.IncompleteReadError:
        return ""
    _, found, rest = head.partition("content-length:")
    await reader.readexactly(int(rest.split()[0]) if found else 0)
    return head


async def test_a_scenario_goes_by_the_stable_version_and_replicas_that_are_there() -> None:
    async with system() as url, running(url) as found:
        assert isinstance(found.system, RunningSystem)
        scenario = await found.system.as_it_is(library.load("replica_killed"))
        assert (scenario.system.stable, scenario.system.replicas) == ("v2", 3)
        assert await found.system.whole()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"faults": (404, {})}, "faults on demand are switched off at .*`faults: true`"),
        ({"faults": (401, {"error": "no token"})}, "doesn't let itself be hurt: 401 no token"),
        ({"index": (200, INDEX[:2])}, "doesn't serve digits and digits-lite"),
        ({"index": (404, {})}, "is no Holdfast: 404"),
    ],
)
async def test_what_cant_be_played_on_is_refused(changed: dict[str, Any], said: str) -> None:
    async with system(**changed) as url:
        with pytest.raises(RunError, match=said):
            async with running(url):
                pass


async def test_where_nobody_answers_that_is_said() -> None:
    with pytest.raises(RunError, match="no Holdfast answers at 127"):
        async with running("http://127.0.0.1:1"):
            pass


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000", "https://127.0.0.1", "ftp://localhost", "http://example.com"])
def test_only_this_machine_may_be_hurt(url: str) -> None:
    with pytest.raises(RunError, match="isn't loopback"):
        address(url)


@pytest.mark.parametrize("name", ["gateway_killed", "gateway_drained", "canary_nan", "overload", "soak"])
async def test_what_needs_a_system_of_its_own_is_refused_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    plan = Plan([library.load(name)], tmp_path, tmp_path, at="http://127.0.0.1:1")
    with pytest.raises(RunError, match=r"needs a system of its own: leave --at out"):
        await anext(run(plan, print))
