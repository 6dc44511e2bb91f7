"""How the rollout proofs ask about rollouts, against a small server that says what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loadtests.resilience.client import Pool
from loadtests.resilience.errors import RunError
from loadtests.rollouts.admin import Rollouts

Answer = tuple[int, Any]


class Api:
    """Gives the answers in turn, the last one again and again; `asked` has method, path and body of each request."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                body = await reader.readexactly(length)
                method, path, _ = head.split(" ", 2)
                self.asked.append((method, path, json.loads(body or b"null")))
                status, document = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                answer = json.dumps(document).encode()
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def talking_to(api: Api) -> AsyncIterator[Rollouts]:
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield Rollouts(pool)
    finally:
        pool.close()
        server.close()
        await server.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the server's own end with their connections


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the server's tasks have no event for that
            await asyncio.sleep(0.001)


def report(phase: str = "Progressing", weight: int = 5) -> dict[str, Any]:
    return {"rollout": "digits-1", "phase": phase, "weight": weight, "reason": "because"}


async def test_a_rollout_is_started_with_the_text_of_its_file() -> None:
    api = Api((201, report()))
    async with talking_to(api) as rollouts:
        assert await rollouts.start("model: digits", "why not") == report()
    document = {"file": "model: digits", "who": "loadtests", "why": "why not"}
    assert api.asked == [("POST", "/v2/holdfast/rollouts", document)]


async def test_a_refusal_is_handed_on_in_its_own_words() -> None:
    async with talking_to(Api((409, {"error": "digits-1 is Baking"}))) as rollouts:
        with pytest.raises(RunError, match=r"409.*digits-1 is Baking"):
            await rollouts.start("model: digits")
        with pytest.raises(RunError, match=r"resume: 409.*digits-1 is Baking"):
            await rollouts.command("resume")


async def test_a_controller_that_cant_answer_for_a_while_is_asked_again() -> None:
    api = Api((503, {"error": "no control plane"}), (200, report(weight=5)), (200, report(weight=25)))
    async with talking_to(api) as rollouts:
        found = await rollouts.until("25 %", lambda one: one["weight"] == 25, within_s=5)
    assert found["weight"] == 25
    assert len(api.asked) == 3


async def test_waiting_in_vain_tells_where_the_rollout_is() -> None:
    async with talking_to(Api((200, report("Paused")))) as rollouts:
        with pytest.raises(RunError, match=r"Baking; digits-1 is Paused at 5 % \(because\)"):
            await rollouts.until("Baking", lambda one: one["phase"] == "Baking", within_s=0.1)


async def test_a_controller_says_of_itself_how_it_is() -> None:
    said = [{"controller": {"pid": pid, "state": state}} for pid, state in ((1, "starting"), (2, "writing"))]
    async with talking_to(Api((200, said[0]), (200, said[1]))) as rollouts:
        found, seconds = await rollouts.until_controller("it writes", lambda one: one["state"] == "writing", within_s=5)
    assert found["pid"] == 2
    assert seconds > 0


async def test_history_is_read_page_by_page_and_only_that_of_one_rollout() -> None:
    events = [{"seq": seq, "rollout": f"digits-{seq % 2}"} for seq in range(6)]
    api = Api((200, {"events": events[:4], "next": 3}), (200, {"events": events[4:], "next": None}))
    async with talking_to(api) as rollouts:
        assert await rollouts.history("digits-1") == [events[1], events[3], events[5]]
    assert [path.partition("after=")[2].partition("&")[0] for _, path, _ in api.asked] == ["0", "3"]


async def test_a_history_that_cant_be_had_is_no_empty_history() -> None:
    async with talking_to(Api((503, {"error": "the log is corrupt"}))) as rollouts:
        with pytest.raises(RunError, match="the log is corrupt"):
            await rollouts.history("digits-1")
