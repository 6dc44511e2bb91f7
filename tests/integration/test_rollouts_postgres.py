"""The PostgreSQL of the rollout proofs can be taken away and comes back with what was written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtests.rollouts.postgres import Postgres, programs
from serving.rollout.event_log import LogUnavailable, open_log
from tests.event_logs import fill

pytestmark = pytest.mark.integration


@asynccontextmanager
async def server() -> AsyncIterator[Postgres]:
    found = programs()
    assert found is not None
    one = Postgres(found)
    try:
        await one.create()
        yield one
    finally:
        one.close()


async def test_an_event_log_in_it_is_gone_with_it_and_whole_when_it_is_back() -> None:
    async with server() as postgres:
        log = await asyncio.to_thread(open_log, postgres.url)
        events = await asyncio.to_thread(fill, log, 5)
        postgres.kill()
        with pytest.raises(LogUnavailable):
            await asyncio.to_thread(log.head)
        await postgres.start()
        assert await asyncio.to_thread(lambda: list(log.read())) == events
        log.close()
