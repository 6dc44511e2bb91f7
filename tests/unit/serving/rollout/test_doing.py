"""Carrying out: one thing at a time for each rollout, given up when overtaken, tried again until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serving.errors import LoadFailed
from serving.rollout.desired import Entry
from serving.rollout.doing import Doer
from serving.rollout.events import Abort, Event, Promote, Resume, Rollback
from serving.rollout.journal import Journal
from serving.rollout.spec import RolloutSpec
from serving.rollout.state import Phase, RolloutState
from serving.rollout.world import Told
from tests.event_logs import MemoryStore, opened_journal
from tests.fakes import FakeClock, settled
from tests.rollouts import rollout_spec, start_of
from tests.worlds import FakeWorld

NOBODY_KNOWS = Told(7, 0, 0)
ONE_IS_MISSING = Told(7, 1, 2)


class Rig:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore()
        self.world = FakeWorld()
        self.journal: Journal
        self.doer: Doer

    async def opened(self) -> None:
        """Another controller begins with what is in the log."""
        self.journal = await opened_journal(self.store, "one", self.clock)
        self.doer = Doer(self.journal, self.world, self.clock)
        self.doer.begin()

    async def start(self, spec: RolloutSpec | None = None) -> None:
        desired = self.journal.desired
        name = desired.next_name("digits")
        start = start_of(spec or rollout_spec(), rollout=name, at=self.clock.wall())
        await self.say(start, name)

    async def say(self, event: Event, rollout: str = "digits-1") -> None:
        await self.journal.command(lambda _: Entry(rollout, event))
        self.doer.carry_out()
        await settled(20)

    @property
    def state(self) -> RolloutState:
        return self.journal.desired.rollouts["digits"]


@asynccontextmanager
async def rigged(clock: FakeClock) -> AsyncIterator[Rig]:
    rig = Rig(clock)
    await rig.opened()
    try:
        yield rig
    finally:
        rig.doer.stop()
        await settled()


def said(kind: type[Abort | Promote | Rollback], clock: FakeClock) -> Event:
    return kind(at=clock.wall(), who="anna")


async def test_a_canary_is_deployed_and_given_its_first_weight(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        await rig.start()
        assert rig.world.done == ["deploy v2", "v1 5"]
        assert (rig.state.phase, rig.state.weight, rig.state.open) == (Phase.PROGRESSING, 5, None)


async def test_what_fails_to_deploy_is_rolled_back_and_its_replicas_end(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.failures["deploy"] = [LoadFailed("its golden example 2 is off by 0.3")]
        await rig.start()
        assert rig.world.done == ["deploy v2", "v1 0", "remove v2"]
        assert rig.state.settled
        assert "golden example 2" in rig.state.reason


async def test_what_nobody_foresaw_is_tried_again(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.failures = {"deploy": [ZeroDivisionError()], "arrange": [OSError(28, "full"), RuntimeError()]}
        await rig.start()
        await asyncio.sleep(1.0)
        assert rig.world.done == ["deploy v2", "deploy v2", "v1 5", "v1 5", "v1 5"]
        assert rig.state.weight == 5


@pytest.mark.parametrize("told", [NOBODY_KNOWS, ONE_IS_MISSING])
async def test_a_weight_is_in_force_when_all_gateways_have_it(clock: FakeClock, told: Told) -> None:
    """If nobody knows how many there are, nobody knows whether all have."""
    async with rigged(clock) as rig:
        rig.world.told = [told] * 4
        await rig.start()
        assert rig.state.weight == 0
        await asyncio.sleep(3.0)
        assert rig.world.done == ["deploy v2"] + ["v1 5"] * 5
        assert rig.state.weight == 5


async def test_what_is_overtaken_is_given_up(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.told = [ONE_IS_MISSING] * 3
        await rig.start()
        await rig.say(said(Promote, clock))
        rig.world.told.clear()
        await asyncio.sleep(3.0)
        assert rig.state.phase is Phase.BAKING
        assert rig.world.done == ["deploy v2", "v1 5", "v1 100", "v1 100"]


async def test_a_rollback_does_not_wait_for_an_arrangement_that_hangs(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.gates["v1 5"] = asyncio.Event()
        await rig.start()
        await rig.say(said(Rollback, clock))
        assert rig.world.done == ["deploy v2", "v1 5", "v1 0", "remove v2"]
        assert rig.state.settled
        rig.world.gates["v1 5"].set()
        await settled(20)
        assert len(rig.world.done) == 4


async def test_nor_for_a_deployment(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.gates["deploy v2"] = asyncio.Event()
        await rig.start()
        await rig.say(said(Abort, clock))
        assert rig.state.phase is Phase.ABORTED
        rig.world.gates["deploy v2"].set()
        await settled(20)
        assert rig.world.done == ["deploy v2", "v1 0", "remove v2"]


async def test_what_is_being_done_is_not_begun_again(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.gates["deploy v2"] = asyncio.Event()
        await rig.start()
        for _ in range(3):
            rig.doer.carry_out()
            await settled()
        assert rig.world.done == ["deploy v2"]


async def test_a_rollback_that_can_not_be_published_is_tried_for_ever(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        await rig.start()
        rig.world.failures["arrange"] = [LoadFailed("v1 isn't served") for _ in range(10)]
        await rig.say(said(Rollback, clock))
        await asyncio.sleep(20.0)
        assert rig.world.done.count("v1 0") == 11
        assert rig.state.phase is Phase.ROLLED_BACK


async def test_a_weight_that_can_not_be_published_for_want_of_the_canary_takes_it_back(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.failures["arrange"] = [LoadFailed("v2 isn't served any more")]
        await rig.start()
        assert rig.state.phase is Phase.ROLLED_BACK
        assert "v2 isn't served any more" in rig.state.reason


async def test_a_weight_that_a_person_wants_in_spite_of_that_is_published_after_the_resume(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.failures["arrange"] = [LoadFailed("v2 isn't served any more")]
        await rig.start(rollout_spec(onBreach="pause"))
        for _ in range(3):
            rig.doer.carry_out()
            await settled(20)
        assert (rig.state.phase, rig.world.done) == (Phase.PAUSED, ["deploy v2", "v1 5"])
        await rig.say(Resume(at=clock.wall(), who="anna"))
        assert (rig.state.phase, rig.state.weight) == (Phase.PROGRESSING, 5)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_promotion_that_can_not_be_published_is_tried_until_it_can(clock: FakeClock, restarted: bool) -> None:
    """What failed is written down once, and then waits for a person as everything that speaks against the canary."""
    async with rigged(clock) as rig:
        await rig.start(rollout_spec(onBreach="pause"))
        rig.world.failures["arrange"] = [LoadFailed("v1 isn't served") for _ in range(10)]
        await rig.say(said(Promote, clock))
        assert (rig.state.phase, rig.state.failure) == (Phase.PROMOTING, "v1 isn't served")
        if restarted:
            rig.doer.stop()
            await rig.opened()
        before = rig.journal.seq
        await asyncio.sleep(1.0)
        assert (rig.state.phase, rig.journal.seq) == (Phase.PROMOTING, before)
        await asyncio.sleep(10.0)
        assert rig.world.done == ["deploy v2", "v1 5"] + ["v1 100"] * 11
        assert (rig.state.phase, rig.state.weight, rig.state.pause_cause) == (Phase.PAUSED, 100, "breach")
        await rig.say(Resume(at=clock.wall(), who="anna"))
        assert (rig.state.phase, rig.state.failure) == (Phase.BAKING, "")


@pytest.mark.parametrize("command", [Abort, Rollback])
async def test_and_until_then_a_person_can_take_it_back(clock: FakeClock, command: type[Abort | Rollback]) -> None:
    async with rigged(clock) as rig:
        await rig.start(rollout_spec(onBreach="pause"))
        rig.world.failures["arrange"] = [LoadFailed("v1 isn't served")]
        await rig.say(said(Promote, clock))
        await rig.say(said(command, clock))
        assert rig.state.settled
        assert rig.world.done[-2:] == ["v1 0", "remove v2"]


async def test_one_whose_breach_takes_it_back_does_so(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        await rig.start()
        rig.world.failures["arrange"] = [LoadFailed("v2 isn't served any more")]
        await rig.say(said(Promote, clock))
        assert rig.state.phase is Phase.ROLLED_BACK


class TestAfterARestart:
    async def test_what_was_undone_is_done(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            rig.world.gates["v1 5"] = asyncio.Event()
            await rig.start()
            rig.doer.stop()
            rig.world.gates.clear()
            await rig.opened()
            await settled(20)
            assert rig.world.done == ["deploy v2", "v1 5", "v1 5"]
            assert rig.state.weight == 5

    async def test_what_is_so_is_brought_about_again_until_all_have_it(self, clock: FakeClock) -> None:
        """Everything may have been switched off."""
        async with rigged(clock) as rig:
            await rig.start()
            rig.doer.stop()
            rig.world.done.clear()
            rig.world.told = [NOBODY_KNOWS, ONE_IS_MISSING]
            rig.world.failures["arrange"] = [OSError(5, "no")]
            before = rig.journal.seq
            await rig.opened()
            await asyncio.sleep(3.0)
            assert rig.world.done == ["v1 5"] * 4
            assert rig.journal.seq == before + 1, "nothing but the claim is news"

    async def test_a_decision_that_comes_meanwhile_comes_first(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await rig.start()
            rig.doer.stop()
            rig.world.gates["v1 5"] = asyncio.Event()
            await rig.opened()
            await settled()
            await rig.say(said(Rollback, clock))
            assert rig.state.phase is Phase.ROLLED_BACK

    async def test_a_canary_that_does_not_come_back_is_taken_back(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await rig.start()
            rig.doer.stop()
            rig.world.failures["arrange"] = [LoadFailed("v2 isn't served")]
            await rig.opened()
            await settled(30)
            assert rig.state.phase is Phase.ROLLED_BACK

    async def test_one_whose_rollout_is_over_is_only_told_of(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await rig.start()
            await rig.say(said(Abort, clock))
            rig.doer.stop()
            rig.world.failures["arrange"] = [LoadFailed("v1 isn't served")]
            before = rig.journal.desired
            await rig.opened()
            await settled(30)
            assert rig.journal.desired == before

    async def test_settling_ends_when_another_rollout_takes_its_place(self, clock: FakeClock) -> None:
        async with rigged(clock) as rig:
            await rig.start()
            await rig.say(said(Abort, clock))
            rig.doer.stop()
            rig.world.told = [NOBODY_KNOWS] * 3
            await rig.opened()
            await settled()
            await rig.start()
            await asyncio.sleep(3.0)
            assert rig.state.rollout == "digits-2"
            assert rig.state.weight == 5


async def test_when_the_journal_has_ended_nothing_goes_on(clock: FakeClock) -> None:
    async with rigged(clock) as rig:
        rig.world.gates["deploy v2"] = asyncio.Event()
        await rig.start()
        await opened_journal(rig.store, "two", clock)
        rig.world.gates["deploy v2"].set()
        await asyncio.sleep(5.0)
        assert rig.world.done == ["deploy v2"]
        assert rig.journal.ended.done()
