"""Busy polling starts only where it pays, lets others run, and always ends."""

from __future__ import annotations

import asyncio

from serving.channel.busy_poll import BusyPoll
from tests.fakes import FakeClock

LIMIT_S = 0.001


async def rounds(poll: BusyPoll, clock: FakeClock, *, gap_s: float, count: int) -> None:
    """Rests that each end with an event after ``gap_s`` seconds."""
    for _ in range(count):
        poll.rest()
        clock.advance(gap_s)
        poll.woken()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def polling() -> bool:
    """Whether the loop would come round again at once by itself."""
    loop = asyncio.get_running_loop()
    return bool(loop._ready)  # type: ignore[attr-defined]


async def test_a_loop_that_never_saw_a_quick_event_sleeps() -> None:
    poll = BusyPoll(FakeClock(), limit_s=LIMIT_S)
    poll.rest()
    assert not polling()


async def test_after_quick_events_it_stays_awake_for_the_next() -> None:
    clock = FakeClock()
    poll = BusyPoll(clock, limit_s=LIMIT_S)
    await rounds(poll, clock, gap_s=LIMIT_S / 10, count=10)
    poll.rest()
    assert polling()
    await asyncio.sleep(0)
    assert polling()
    poll.woken()
    await asyncio.sleep(0)
    assert not polling()


async def test_it_gives_up_when_the_event_does_not_come() -> None:
    clock = FakeClock()
    poll = BusyPoll(clock, limit_s=LIMIT_S)
    await rounds(poll, clock, gap_s=LIMIT_S / 10, count=10)
    poll.rest()
    clock.advance(1.1 * LIMIT_S)
    await asyncio.sleep(0)
    assert not polling()


async def test_slow_events_put_it_to_sleep_again() -> None:
    clock = FakeClock()
    poll = BusyPoll(clock, limit_s=LIMIT_S)
    await rounds(poll, clock, gap_s=LIMIT_S / 10, count=10)
    await rounds(poll, clock, gap_s=10 * LIMIT_S, count=3)
    poll.rest()
    assert not polling()


async def test_without_a_limit_it_never_polls() -> None:
    clock = FakeClock()
    poll = BusyPoll(clock, limit_s=0.0)
    await rounds(poll, clock, gap_s=0.0, count=10)
    poll.rest()
    assert not polling()
