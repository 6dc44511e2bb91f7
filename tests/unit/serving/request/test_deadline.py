from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequest
from serving.request.deadline import SLOT_S, TIMEOUT_MAX_US, Deadlines, budget_s
from tests.fakes import FakeClock, run


class Entry:
    def __init__(self, deadline: float, clock: FakeClock) -> None:
        self.deadline = deadline
        self.expired: list[float] = []
        self._clock = clock

    def expire(self) -> None:
        self.expired.append(self._clock.now)


class TestTheWheel:
    @given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 0.2)), min_size=1, max_size=10), st.floats(0, 1))
    @settings(deadline=None)
    def test_nothing_expires_early_nor_more_than_a_slot_late(
        self, entries: list[tuple[float, float]], start: float
    ) -> None:
        async def watch() -> None:
            watched = []
            for wait, within in entries:
                await asyncio.sleep(wait)
                watched.append(Entry(clock.now + within, clock))
                wheel.watch(watched[-1])
            await asyncio.sleep(1)
            for entry in watched:
                (at,) = entry.expired
                assert entry.deadline < at < entry.deadline + 1.05 * SLOT_S

        clock = FakeClock()
        clock.advance(start)
        wheel = Deadlines(clock)
        run(watch(), clock)

    async def test_what_is_forgotten_never_expires(self, clock: FakeClock) -> None:
        wheel = Deadlines(clock)
        kept, forgotten = Entry(clock.now + 0.1, clock), Entry(clock.now + 0.1, clock)
        wheel.watch(kept)
        wheel.watch(forgotten)
        wheel.forget(forgotten)
        wheel.forget(forgotten)
        await asyncio.sleep(1)
        assert (len(kept.expired), forgotten.expired) == (1, [])

    async def test_it_stands_still_while_nothing_is_watched_and_starts_again(self, clock: FakeClock) -> None:
        wheel = Deadlines(clock)
        for _ in range(2):
            entry = Entry(clock.now + 0.01, clock)
            wheel.watch(entry)
            await asyncio.sleep(0.1)
            assert len(entry.expired) == 1
            assert wheel._timer is None

    async def test_a_deadline_that_has_passed_already_expires_soon(self, clock: FakeClock) -> None:
        wheel = Deadlines(clock)
        entry = Entry(clock.now - 5, clock)
        wheel.watch(entry)
        await asyncio.sleep(1.05 * SLOT_S)
        assert len(entry.expired) == 1

    async def test_one_that_expires_may_make_others_forget(self, clock: FakeClock) -> None:
        wheel = Deadlines(clock)
        second = Entry(clock.now + 0.05, clock)

        class First(Entry):
            def expire(self) -> None:
                super().expire()
                wheel.forget(second)
                wheel.forget(self)

        first = First(clock.now + 0.01, clock)
        wheel.watch(first)
        wheel.watch(second)
        await asyncio.sleep(1)
        assert (len(first.expired), second.expired) == (1, [])


class TestTheBudget:
    @pytest.mark.parametrize(
        ("parameters", "header", "seconds"),
        [
            ({}, None, 7.0),
            ({"timeout": 250_000}, None, 0.25),
            ({}, "1500000", 1.5),
            ({"timeout": 1}, "1500000", 1e-6),
            ({"timeout": 2_000_000}, "1500000", 1.5),
            ({"timeout": TIMEOUT_MAX_US}, None, 86_400),
            ({"timeout": None}, "0000000001", 1e-6),
        ],
    )
    def test_the_smaller_of_parameter_and_header_counts_else_the_default(
        self, parameters: dict[str, Any], header: str | None, seconds: float
    ) -> None:
        assert budget_s(parameters, header, default_s=7.0) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        ("timeout", "text"),
        [
            (0, "parameters.timeout: 0 isn't between 1 and 86400000000 microseconds"),
            (-1, "parameters.timeout: -1 isn't between"),
            (TIMEOUT_MAX_US + 1, "parameters.timeout: 86400000001 isn't between"),
            (1.5, "parameters.timeout: 1.5 isn't a whole number of microseconds"),
            (True, "parameters.timeout: True isn't a whole number"),
            ("9" * 1000, "parameters.timeout: '999"),
            ([1], "parameters.timeout: [1] isn't a whole number"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, timeout: Any, text: str) -> None:
        with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
            budget_s({"timeout": timeout}, None, default_s=1)
        assert len(caught.value.message) < 200

    @pytest.mark.parametrize("header", ["", "0", "-1", "1.5", "1e6", " 1", "٣", "1_000", "9" * 13, "86400000001"])
    def test_a_wrong_header_is_named(self, header: str) -> None:
        with pytest.raises(InvalidRequest, match="header x-request-timeout-us: "):
            budget_s({}, header, default_s=1)
