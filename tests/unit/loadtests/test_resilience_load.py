"""The load of the resilience run, against a small server that answers, hangs and hangs up as it is asked to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from loadtests.resilience.answers import Judge
from loadtests.resilience.cli import main
from loadtests.resilience.client import NoReply, Pool, encode
from loadtests.resilience.figures import Kind
from loadtests.resilience.load import Load, closed_loop
from loadtests.resilience.schedule import Arrival, steady

ANSWER = json.dumps({"outputs": [{"name": "label", "data": [4]}]}).encode()


class Server:
    """Answers `/ok`, leaves `/hang` without one until `release`, closes at `/close`, and sends `/rubbish`."""

    def __init__(self) -> None:
        self.connections = 0
        self.release = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                path = head.split(b" ")[1]
                if path == b"/close":
                    break
                if path == b"/hang":
                    await self.release.wait()
                text = b"rubbish\r\n\r\n" if path == b"/rubbish" else answer()
                writer.write(text)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def answer() -> bytes:
    head = f"HTTP/1.1 200 OK\r\nHoldfast-Version: digits@v2\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
    return head.encode() + ANSWER


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, Pool]]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    pool = Pool("127.0.0.1", server.port)
    try:
        yield server, pool
    finally:
        server.release.set()
        pool.close()
        listener.close()
        await listener.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the server's own end with their connections


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for has no event
        await asyncio.sleep(0.001)


def judge() -> Judge:
    return Judge({"digits@v2": [{"label": [4]}]}, ["digits@v2"])


async def test_connections_are_used_again() -> None:
    async with serving() as (server, pool):
        for _ in range(3):
            assert (await pool.ask("POST", "/ok"))[0] == 200
        assert server.connections == 1


@pytest.mark.parametrize(("path", "why"), [("/close", "closed"), ("/rubbish", "not HTTP"), ("/hang", "within")])
async def test_no_answer_is_said_and_takes_its_connection_with_it(path: str, why: str) -> None:
    async with serving() as (server, pool):
        with pytest.raises(NoReply, match=why):
            await pool.send(encode("POST", path, b"{}"), timeout_s=0.2)
        assert (await pool.ask("POST", "/ok"))[0] == 200
        assert server.connections == 2


async def test_a_stalled_answer_delays_no_other_request_and_its_wait_counts_from_when_it_was_due() -> None:
    async with serving() as (server, pool):
        paths = {0: "/hang", 1: "/ok"}
        load = Load(pool, judge(), lambda a: encode("POST", paths[min(1, a.image)], b"{}"), timeout_s=5)
        task = asyncio.create_task(load.run([Arrival(index / 100, index, 0) for index in range(20)]))
        await until(lambda: len(load.samples) == 19)
        assert all(sample.image != 0 for sample in load.samples)
        server.release.set()
        await task
        stalled = load.samples[-1]
        assert stalled.image == 0
        assert stalled.took_s >= 0.18


async def test_what_gets_no_answer_is_lost_and_what_gets_another_is_wrong() -> None:
    async with serving() as (_, pool):
        wrong = Judge({"digits@v2": [{"label": [5]}]}, ["digits@v2"])
        load = Load(pool, wrong, lambda a: encode("POST", "/close" if a.due_s else "/ok", b"{}"), timeout_s=5)
        await load.run([Arrival(0, 0, 0), Arrival(0.01, 0, 0)])
        assert [sample.kind for sample in sorted(load.samples)] == [Kind.WRONG, Kind.LOST]


async def test_a_stopped_load_waits_for_what_it_sent_and_sends_no_more() -> None:
    async with serving() as (server, pool):
        load = Load(pool, judge(), lambda _: encode("POST", "/hang", b"{}"), timeout_s=5)
        task = asyncio.create_task(load.run(steady(1000, images=(0,), at_most_s=60)))
        await until(lambda: server.connections >= 3)
        load.stop()
        server.release.set()
        await task
        assert len(load.samples) >= 3
        assert {sample.kind for sample in load.samples} == {Kind.OK}


async def test_a_closed_loop_counts_good_answers_a_second() -> None:
    async with serving() as (server, pool):
        rate = await closed_loop(pool, [encode("POST", "/ok", b"{}")], clients=2, seconds=0.2, timeout_s=5)
        assert rate > 5
        assert server.connections == 2


def test_a_missing_store_is_named_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", "no/such/store"]) == 2
    assert "no/such/store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "no_such_scenario"], "no_such_scenario"),
        (["--without", "luck"], "luck"),
        (["--seconds", "1"], "5 to 3600"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert said in capsys.readouterr().err
