"""Looking: what there is to see is written down, once, and with the time that it was watched; nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serving.rollout.desired import DesiredState, Entry, decode_entry
from serving.rollout.doing import Doer
from serving.rollout.event_log import LogUnavailable
from serving.rollout.events import Abort, ClockTick, Event, Observed, Resume, VersionFailed
from serving.rollout.evidence import Observation
from serving.rollout.journal import ALIVE_S, Journal
from serving.rollout.looking import Looker
from serving.rollout.spec import RolloutSpec
from serving.rollout.state import Phase, RolloutState
from serving.routing.collected import Collected
from serving.routing.outcomes import AtWeight, Counted, SplitOutcomes
from tests.event_logs import MemoryStore, opened_journal
from tests.fakes import FakeClock
from tests.rollouts import rollout_spec, start_of
from tests.worlds import FakeWorld


def told(attempts: int, *, gateway: str = "g1", weight: float = 0.05, bad: int = 0, fault: str = "") -> Collected:
    """What a gateway has counted by now at the canary; at the stable version ten times as much."""
    row = AtWeight(weight, Counted(attempts, bad), Counted(10 * attempts))
    outcomes = SplitOutcomes(
        gateway,
        1.0,
        7,
        "digits",
        "digits-1",
        "v2",
        "v1",
        weight,
        False,
        fault,
        (row,) if attempts else (),
        (),
        0,
        False,
    )
    return Collected(gateway, 1.0, 7, (outcomes,))


class Rig:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore()
        self.world = FakeWorld()
        self.world.answers = (told(0), told(0, gateway="g2"))
        self.journal: Journal
        self._tasks: list[asyncio.Task[None]] = []
        self._doer: Doer

    async def opened(self) -> None:
        """Another controller begins with what is in the log."""
        self.stop()
        self.journal = await opened_journal(self.store, "one", self.clock)
        self._doer = Doer(self.journal, self.world, self.clock)
        self._doer.begin()
        looker = Looker(self.journal, self.world, self.clock, decided=self._doer.carry_out)
        self._tasks.append(asyncio.create_task(looker.run()))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._doer.stop()

    async def say(self, event: Event) -> None:
        await self.journal.command(lambda _: Entry("digits-1", event))
        self._doer.carry_out()

    @property
    def state(self) -> RolloutState:
        return self.journal.desired.rollouts["digits"]

    def events(self) -> list[Event]:
        log = self.store.open()
        return [decode_entry(event.payload).event for event in log.read() if event.kind == "rollout"]

    def observations(self) -> list[Observation]:
        return [event.observation for event in self.events() if isinstance(event, Observed)]


@asynccontextmanager
async def rigged(clock: FakeClock, spec: RolloutSpec | None = None) -> AsyncIterator[Rig]:
    """A rollout at its first weight."""
    rig = Rig(clock)
    await rig.opened()
    await rig.say(start_of(spec or rollout_spec(), at=clock.wall()))
    await asyncio.sleep(0.1)
    assert rig.state.weight == 5
    try:
        yield rig
    finally:
        rig.stop()
        await asyncio.sleep(0)


class TestWindows:
    async def test_what_was_counted_is_observed_once(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.answers = (told(10), told(5, gateway="g2"))
            await asyncio.sleep(10.0)
            assert sum(one.canary.attempts for one in rig.observations()) == 15
            assert sum(one.stable.attempts for one in rig.observations()) == 150

    async def test_a_restart_counts_nothing_twice_and_no_time_that_nobody_watched(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.answers = (told(10), told(5, gateway="g2"))
            await asyncio.sleep(5.0)
            rig.stop()
            watched_s = sum(one.seconds for one in rig.observations())
            rig.world.answers = (told(30), told(5, gateway="g2"))
            await asyncio.sleep(100.0)
            await rig.opened()
            await asyncio.sleep(5.0)
            assert sum(one.canary.attempts for one in rig.observations()) == 35
            assert sum(one.seconds for one in rig.observations()) <= watched_s + 5.0

    async def test_the_time_that_is_observed_is_the_time_that_has_passed(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            before = clock.now
            for number in range(40):
                rig.world.answers = (told(number), told(number, gateway="g2"))
                await asyncio.sleep(0.5)
            observed_s = sum(one.seconds for one in rig.observations())
            assert clock.now - before - 1.5 < observed_s <= clock.now - before

    async def test_about_once_a_second_is_often_enough(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            for number in range(80):
                rig.world.answers = (told(number), told(number, gateway="g2"))
                await asyncio.sleep(0.25)
            assert 15 <= len(rig.observations()) <= 25

    async def test_what_is_bad_is_seen_at_once(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await asyncio.sleep(3.0)
            rig.world.answers = (told(40, bad=30), told(40, gateway="g2", bad=30))
            await asyncio.sleep(0.3)
            assert rig.observations()[-1].canary.bad == 60


class TestGaps:
    async def test_a_question_that_fails_is_a_look_in_which_nobody_reported(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await asyncio.sleep(2.0)
            before = rig.state.evidence.gap_s
            rig.world.failures["collect"] = [OSError(111, "refused") for _ in range(200)]
            await asyncio.sleep(20.0)
            assert rig.observations()[-1].gateways_reporting == 0
            assert 14.0 < rig.state.evidence.gap_s - before <= 20.5  # the last 5 s may not be written down yet

    async def test_if_figures_are_missing_for_long_the_rollout_pauses(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.answers = (told(1),)
            await asyncio.sleep(29.0)
            assert rig.state.phase is Phase.PROGRESSING
            await asyncio.sleep(3.0)
            assert (rig.state.phase.value, rig.state.pause_cause) == ("Paused", "metrics")

    async def test_a_gateway_that_can_not_reach_the_canary_does_not_report(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.answers = (told(1), told(0, gateway="g2", fault="it isn't loaded in this gateway"))
            await asyncio.sleep(2.0)
            assert [(one.gateways, one.gateways_reporting) for one in rig.observations()][-1] == (2, 1)

    async def test_nobody_reports_while_nobody_knows_the_gateways(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.gateways, rig.world.answers = 0, ()
            await asyncio.sleep(6.0)
            assert rig.observations()[-1].gateways == 0
            assert not rig.state.evidence.complete


class TestQuiet:
    async def test_where_nothing_is_counted_time_is_told_now_and_then(self, clock: FakeClock) -> None:
        spec = rollout_spec()
        async with rigged(clock, spec) as rig:
            rig.world.told = []
            await asyncio.sleep(61.0)
            assert len(rig.observations()) <= 15
            assert max(later.at - event.at for event, later in zip(rig.events(), rig.events()[1:], strict=False)) <= 5.3

    async def test_a_deadline_is_kept_though_nothing_comes_in(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        rig.world.gates["deploy v2"] = asyncio.Event()
        await rig.opened()
        await rig.say(start_of(rollout_spec(progressDeadline="1m"), at=clock.wall()))
        await asyncio.sleep(59.0)
        assert rig.state.phase.value == "Starting"
        await asyncio.sleep(2.0)
        assert rig.state.phase is Phase.ROLLED_BACK
        assert sum(isinstance(event, ClockTick) for event in rig.events()) <= 15
        rig.stop()
        await asyncio.sleep(0)

    async def test_without_a_rollout_nothing_is_written_but_that_there_is_somebody(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        await rig.opened()
        await asyncio.sleep(3.5 * ALIVE_S)
        log = rig.store.open()
        assert [event.kind for event in log.read()] == ["controller"] * 4
        assert log.latest_snapshot() is None
        assert rig.world.asked == []
        rig.stop()
        await asyncio.sleep(0)


class TestBreakdowns:
    async def test_a_crash_loop_takes_the_canary_back(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.broken = "digits@v2 crashes again and again"
            await asyncio.sleep(1.0)
            assert rig.state.phase is Phase.ROLLED_BACK
            assert [event.reason for event in rig.events() if isinstance(event, VersionFailed)] == [rig.world.broken]
            await asyncio.sleep(1.0)
            assert rig.world.done[-1] == "forget v2"

    async def test_one_that_a_person_has_forgiven_must_arise_anew(self, clock: FakeClock) -> None:
        async with rigged(clock, rollout_spec(onBreach="pause")) as rig:
            rig.world.broken = "digits@v2 crashes again and again"
            await asyncio.sleep(1.0)
            assert (rig.state.phase, rig.state.pause_cause) == (Phase.PAUSED, "breach")
            assert "forget v2" not in rig.world.done
            await rig.say(Resume(at=clock.wall(), who="anna"))
            rig.world.broken = ""
            await asyncio.sleep(1.0)
            assert rig.world.done.count("forget v2") == 1
            assert rig.state.phase.value == "Progressing"

    async def test_if_the_watch_for_them_fails_no_counts_are_lost(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await asyncio.sleep(2.0)
            rig.world.answers = (told(10), told(5, gateway="g2"))
            rig.world.failures["breakdown"] = [RuntimeError("Serve is gone") for _ in range(3)]
            await asyncio.sleep(8.0)
            assert sum(one.canary.attempts for one in rig.observations()) == 15


async def test_while_the_log_is_away_it_waits_and_the_gap_is_no_time_that_was_watched(clock: FakeClock) -> None:
    async with rigged(clock, rollout_spec(bake="{duration: 1h}")) as rig:
        await asyncio.sleep(2.0)

        def away() -> None:
            raise LogUnavailable("full")

        before, rig.store.before = rig.store.before, away
        asked = len(rig.world.asked)
        await asyncio.sleep(60.0)
        assert len(rig.world.asked) <= asked + 21, "nobody would hear of it"
        rig.store.before = before
        await asyncio.sleep(10.0)
        assert rig.state.here_s < 2.0 + 30.0 + 15.0
        assert [one.seconds for one in rig.observations() if one.seconds > 30.0] != []


async def test_it_ends_with_its_journal(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        await opened_journal(rig.store, "two", clock)
        await asyncio.sleep(10.0)
        asked = len(rig.world.asked)
        await asyncio.sleep(10.0)
        assert len(rig.world.asked) == asked


@pytest.mark.parametrize("ending", ["abort", "restart"])
async def test_what_is_over_is_not_asked_for_any_more(clock: FakeClock, ending: str) -> None:
    async with rigged(clock) as rig:
        await rig.say(Abort(at=clock.wall(), who="anna"))
        if ending == "restart":
            await rig.opened()
        await asyncio.sleep(1.0)
        asked = len(rig.world.asked)
        await asyncio.sleep(10.0)
        assert len(rig.world.asked) == asked
        assert rig.journal.desired != DesiredState()
