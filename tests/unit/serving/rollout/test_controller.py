"""The controller: what people say is written down or refused with a reason, and only one writes, as long as it can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serving.errors import InvalidRequest, RequestError, RolloutNotFound, RolloutRefused, RolloutsUnavailable
from serving.rollout import controller as controllers
from serving.rollout.controller import (
    BLIND_START_S,
    COMMANDS,
    DAMAGED_S,
    HISTORIES_MAX,
    LOOK_ON_S,
    REOPEN_S,
    RUNBOOK,
    Controller,
)
from serving.rollout.desired import DesiredState
from serving.rollout.event_log import EventLog, LogCorrupt, LogUnavailable
from serving.rollout.history import Claim, Folded, History, folded
from serving.rollout.looking import IDLE_S
from serving.rollout.state import Phase
from tests.event_logs import MemoryStore
from tests.fakes import FakeClock
from tests.rollouts import ROLLOUT_YAML
from tests.worlds import FakeWorld


class Rig:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore()
        self.error: Exception | None = None
        """What everything that is asked of the log ends with."""
        self.opened = 0
        self.worlds: list[FakeWorld] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.store.before = self._fail

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def open(self) -> EventLog:
        self._fail()
        self.opened += 1
        return self.store.open()

    def another(self, name: str) -> Controller:
        world = FakeWorld()
        self.worlds.append(world)
        controller = Controller(world, open_log=self.open, claim=Claim(name, "here"), clock=self.clock)
        self._tasks.append(asyncio.create_task(controller.run()))
        return controller

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    @property
    def world(self) -> FakeWorld:
        return self.worlds[0]


@asynccontextmanager
async def rigged(clock: FakeClock, error: Exception | None = None) -> AsyncIterator[tuple[Rig, Controller]]:
    rig = Rig(clock)
    rig.error = error
    controller = rig.another("one")
    try:
        await asyncio.sleep(0.1)
        yield rig, controller
    finally:
        rig.error = None
        await rig.stop()


async def started(controller: Controller, file: str = ROLLOUT_YAML) -> None:
    await controller.start(file, who="anna", why="more accurate")
    await asyncio.sleep(0.1)


def waited(event: threading.Event) -> None:
    event.wait(10.0)


async def until(there: Callable[[], object]) -> None:
    async with asyncio.timeout(10.0):
        while not there():  # noqa: ASYNC110  # another thread does it
            await asyncio.sleep(0.01)


FULL = LogUnavailable("the disk is full")


class TestCommands:
    async def test_a_rollout_is_started_and_told_of(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, controller):
            state = await controller.start(ROLLOUT_YAML, who="anna", why="more accurate")
            assert (state.rollout, state.phase, state.prior) == ("digits-1", Phase.STARTING, "v1")
            assert (state.started_by, state.reason) == ("anna", "v2 is being deployed")
            await asyncio.sleep(0.1)
            assert controller.rollout("digits").weight == 5
            assert rig.world.done == ["deploy v2", "v1 5"]
            assert controller.seq == rig.store.open().head()[0]

    @pytest.mark.parametrize("command", COMMANDS)
    async def test_what_a_person_says_is_done(self, clock: FakeClock, command: str) -> None:
        phases = {"pause": "Paused", "promote": "Promoting", "abort": "RollingBack", "rollback": "RollingBack"}
        async with rigged(clock) as (_, controller):
            await started(controller)
            if command == "resume":
                await controller.command("digits", "pause", who="anna", why="")
            state = await controller.command("digits", command, who="bert", why="so")
            assert state.phase.value == phases.get(command, "Progressing")
            assert "by bert: so" in state.reason or command == "resume"

    async def test_a_file_that_is_wrong_is_refused_with_line_and_key(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, controller):
            with pytest.raises(InvalidRequest, match=r"^line 5: steps\[0\]\.setWeight: "):
                await controller.start(ROLLOUT_YAML.replace("setWeight: 5}", "setWeight: 500}"), who="anna", why="")
            assert controller.desired == DesiredState()
            assert rig.world.done == []

    async def test_so_is_one_that_does_not_fit_what_is_served(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, controller):
            rig.world.stable_version = "v3"
            with pytest.raises(RolloutRefused, match=r"^line 3: from: the stable version of 'digits' is v3, not v1"):
                await started(controller)
            rig.world.failures["check"] = [InvalidRequest("version: the registry has no digits@v2")]
            with pytest.raises(InvalidRequest, match=r"^line 2: version: the registry has no"):
                await started(controller)
            rig.world.failures["check"] = [InvalidRequest("analysis.shadow: can't be compared")]
            with pytest.raises(InvalidRequest, match=r"^line \d+: analysis.shadow: can't be compared"):
                await started(controller)
            rig.world.stable_version = ""
            with pytest.raises(RolloutRefused, match="isn't served"):
                await started(controller)
            assert controller.desired == DesiredState()

    async def test_one_model_has_one_rollout_at_a_time(self, clock: FakeClock) -> None:
        async with rigged(clock) as (_, controller):
            starts = [controller.start(ROLLOUT_YAML, who=who, why="") for who in ("anna", "bert")]
            _, second = await asyncio.gather(*starts, return_exceptions=True)
            assert isinstance(second, RolloutRefused)
            assert "digits-1 (v1 to v2) of 'digits' is Starting" in second.message
            assert controller.desired.counts == {"digits": 1}

    async def test_what_can_not_be_now_is_refused_with_what_can(self, clock: FakeClock) -> None:
        async with rigged(clock) as (_, controller):
            await started(controller)
            with pytest.raises(RolloutRefused, match=r"no Resume now\. What a person can do: pause, promote"):
                await controller.command("digits", "resume", who="anna", why="")

    async def test_a_model_without_a_rollout_is_not_found(self, clock: FakeClock) -> None:
        async with rigged(clock) as (_, controller):
            said = (
                "^'digits' never had a rollout; `holdfast rollout status` shows .*, `holdfast rollout start` starts one"
            )
            with pytest.raises(RolloutNotFound, match=said):
                controller.rollout("digits")
            with pytest.raises(RolloutNotFound):
                await controller.command("digits", "pause", who="anna", why="")


class TestHistories:
    async def test_it_is_read_from_the_log(self, clock: FakeClock) -> None:
        async with rigged(clock) as (_, controller):
            await started(controller)
            part = await controller.history("digits", after=0, limit=3)
            assert [type(event.event).__name__ for event in part.events] == ["Start", "DeployVersion", "VersionReady"]
            assert part.next == 4

    async def test_the_log_is_opened_once_and_again_after_trouble(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, controller):
            opened = rig.opened
            for _ in range(3):
                await controller.history("digits", after=0, limit=3)
            assert rig.opened == opened + 1
            rig.error = FULL
            with pytest.raises(RolloutsUnavailable, match="can't be read: the disk is full"):
                await controller.history("digits", after=0, limit=3)
            rig.error = None
            await controller.history("digits", after=0, limit=3)
            assert rig.opened == opened + 2

    async def test_one_is_read_at_a_time_and_few_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if those who asked are gone."""
        reading, most, go_on = [0], [0], threading.Event()

        def read(*_: object) -> History:
            reading[0] += 1
            most[0] = max(most[0], reading[0])
            waited(go_on)
            reading[0] -= 1
            return History((), None)

        monkeypatch.setattr(controllers, "history", read)
        async with rigged(FakeClock()) as (_, controller):
            asked = [
                asyncio.create_task(controller.history("digits", after=0, limit=1)) for _ in range(HISTORIES_MAX + 1)
            ]
            await until(lambda: reading[0])
            asked[0].cancel()
            await asyncio.sleep(0.05)
            go_on.set()
            *found, refused = await asyncio.gather(*asked, return_exceptions=True)
            assert most == [1]
            assert isinstance(refused, RolloutsUnavailable)
            assert "ask again" in refused.message
            assert found[1:] == [History((), None)] * (HISTORIES_MAX - 1)

    async def test_what_is_written_waits_for_no_reader(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not even if all of the threads that others share are busy."""
        go_on = threading.Event()
        async with rigged(FakeClock()) as (_, controller):
            await until(lambda: controller.status.state == "writing")
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))
            busy = loop.run_in_executor(None, waited, go_on)
            try:
                async with asyncio.timeout(5.0):
                    state = await controller.start(ROLLOUT_YAML, who="anna", why="")
                assert state.rollout == "digits-1"
            finally:
                go_on.set()
                await busy


class TestWithoutTheLog:
    async def test_until_it_is_read_nothing_is_known_and_nothing_is_done(self, clock: FakeClock) -> None:
        async with rigged(clock, FULL) as (rig, controller):
            assert controller.status == ("log_unavailable", "the disk is full")
            said = "the controller's state is log_unavailable: the disk is full; .*HoldfastEventLogFailing.md says what"
            with pytest.raises(RolloutsUnavailable, match=said):
                controller.rollout("digits")
            with pytest.raises(RolloutsUnavailable, match=said):
                await started(controller)
            with pytest.raises(RolloutsUnavailable, match=r"HoldfastEventLogFailing\.md"):
                await controller.history("digits", after=0, limit=1)
            assert rig.world.begun == []

    async def test_while_it_is_still_being_read_a_command_is_to_come_again(self, clock: FakeClock) -> None:
        controller = Controller(FakeWorld(), open_log=MemoryStore().open, claim=Claim("one", "here"), clock=clock)
        with pytest.raises(
            RolloutsUnavailable, match=r"state is starting; .* still being read: try again in a moment$"
        ):
            await started(controller)

    def test_the_runbook_that_is_named_is_there(self) -> None:
        assert (Path(__file__).parents[4] / RUNBOOK.partition(" ")[0]).is_file()

    async def test_what_the_settings_say_is_served_after_a_while_and_the_rollouts_when_it_is_back(
        self, clock: FakeClock
    ) -> None:
        async with rigged(clock, FULL) as (rig, controller):
            await asyncio.sleep(BLIND_START_S - 0.2)
            assert rig.world.begun == []
            await asyncio.sleep(0.2)
            assert rig.world.begun == [None]
            rig.error = None
            await asyncio.sleep(REOPEN_S)
            assert rig.world.begun == [None, DesiredState()]
            assert controller.status == ("writing", "")
            await started(controller)

    async def test_if_it_is_back_sooner_nothing_was_served_without_it(self, clock: FakeClock) -> None:
        async with rigged(clock, FULL) as (rig, _):
            await asyncio.sleep(1.0)
            rig.error = None
            await asyncio.sleep(10.0)
            assert rig.world.begun == [DesiredState()]

    async def test_one_that_is_only_long_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(controllers, "BLIND_START_S", 0.01)
        async with rigged(FakeClock()) as (rig, _):
            reading = threading.Event()
            rig.store.before = lambda: waited(reading)
            rig.another("two")
            try:
                await asyncio.sleep(0.2)
                assert rig.worlds[1].begun == []
            finally:
                reading.set()
            await until(lambda: rig.worlds[1].begun)
            assert rig.worlds[1].begun == [DesiredState()]

    async def test_but_not_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(controllers, "BLIND_START_S", 0.01)
        monkeypatch.setattr(controllers, "LONG_READ_S", 0.1)
        async with rigged(FakeClock()) as (rig, _):
            reading = threading.Event()
            rig.store.before = lambda: waited(reading)
            rig.another("two")
            try:
                await until(lambda: rig.worlds[1].begun)
            finally:
                reading.set()
            assert rig.worlds[1].begun[0] is None

    @pytest.mark.parametrize(
        "error", [ImportError("no driver"), ValueError("an event log is a path"), OSError(5, "io")]
    )
    async def test_whatever_is_wrong_with_it_it_is_tried_again(self, clock: FakeClock, error: Exception) -> None:
        async with rigged(clock, error) as (rig, controller):
            assert controller.status == ("log_unavailable", str(error))
            rig.error = None
            await asyncio.sleep(REOPEN_S)
            assert controller.status.state == "writing"

    async def test_a_damaged_one_is_named_so(self, clock: FakeClock) -> None:
        async with rigged(clock, LogCorrupt(7, "the row was altered")) as (_, controller):
            assert controller.status == ("log_corrupt", "event 7: the row was altered")

    async def test_which_is_read_again_now_and_then(self, clock: FakeClock) -> None:
        async with rigged(clock, LogCorrupt(7, "the row was altered")) as (rig, controller):
            rig.error = None
            found = []
            for seconds in (DAMAGED_S - 1.0, 2.0):
                await asyncio.sleep(seconds)
                found.append(controller.status.state)
            assert found == ["log_corrupt", "writing"]

    async def test_a_damage_that_is_found_while_it_writes_is_named_and_the_log_read_anew(
        self, clock: FakeClock
    ) -> None:
        async with rigged(clock) as (rig, controller):
            await started(controller)
            rig.error = LogCorrupt(7, "the row was altered")
            await asyncio.sleep(6.0)
            assert controller.status.state == "log_corrupt"
            assert controller.rollout("digits").weight == 5, "what was known is told"
            with pytest.raises(RolloutsUnavailable, match="log_corrupt"):
                await controller.command("digits", "abort", who="anna", why="")

    async def test_a_command_that_can_not_be_written_is_refused_and_the_next_one_works(self, clock: FakeClock) -> None:
        """Also where nothing else is written that would show that the log is back."""
        async with rigged(clock) as (rig, controller):
            rig.error = FULL
            with pytest.raises(RolloutsUnavailable, match="couldn't be written to the event log, so it isn't done"):
                await started(controller)
            assert controller.status == (
                "log_unavailable",
                "nothing is decided until it can be written again: the disk is full",
            )
            rig.error = None
            await started(controller)
            assert controller.status.state == "writing"

    async def test_one_that_was_written_all_the_same_shows_by_itself(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, controller):

            def lost() -> None:
                rig.store.after_write = lambda: None
                raise LogUnavailable("the answer was lost")

            rig.store.after_write = lost
            with pytest.raises(RolloutsUnavailable, match="unless `holdfast rollout status` shows it later"):
                await started(controller)
            await asyncio.sleep(2 * IDLE_S)
            assert controller.status.state == "writing"
            assert controller.rollout("digits").weight == 5

    async def test_while_it_is_away_commands_are_refused_at_once(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, controller):
            await started(controller)
            rig.error = FULL
            await asyncio.sleep(10.0)
            assert controller.status.state == "log_unavailable"
            before = clock.now
            with pytest.raises(RolloutsUnavailable):
                await controller.command("digits", "abort", who="anna", why="")
            assert clock.now - before < 0.01
            rig.error = None
            await asyncio.sleep(3.0)
            state = await controller.command("digits", "abort", who="anna", why="")
            assert state.phase is Phase.ROLLING_BACK


class TestSeveral:
    async def test_the_one_that_lost_the_log_only_looks_on(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, first):
            await started(first)
            second = rig.another("two")
            await asyncio.sleep(10.0)
            assert first.status == (
                "standby",
                "a later controller of this Holdfast (two) writes the event log; this controller only looks on",
            )
            assert second.status == ("writing", "")
            with pytest.raises(
                RolloutsUnavailable, match=r"state is standby: a later controller of this Holdfast \(two\)"
            ):
                await first.command("digits", "abort", who="anna", why="")
            await second.command("digits", "abort", who="anna", why="")
            await asyncio.sleep(10.0)
            assert second.rollout("digits").phase is Phase.ABORTED
            assert rig.worlds[0].done == ["deploy v2", "v1 5"], "the first one does nothing any more"

    async def test_one_that_looks_on_reads_only_what_is_new(
        self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known: list[Folded | None] = []

        def reading(event_log: EventLog, since: Folded | None = None) -> Folded:
            known.append(since)
            return folded(event_log, since)

        async with rigged(clock) as (rig, first):
            second = rig.another("two")
            await asyncio.sleep(10.0)
            monkeypatch.setattr(controllers, "folded", reading)
            await started(second)
            await asyncio.sleep(6 * LOOK_ON_S)
            assert first.rollout("digits").weight == 5
            assert 5 <= len(known) <= 7
            assert None not in known

    async def test_an_idle_one_finds_out_at_the_next_command(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, first):
            await asyncio.sleep(1.0)
            rig.another("two")
            await asyncio.sleep(1.0)
            with pytest.raises(RolloutsUnavailable):
                await started(first)
            await asyncio.sleep(0.1)
            assert first.status.state == "standby"
            assert folded(rig.store.open()).desired == DesiredState()

    async def test_of_two_that_begin_at_once_one_writes(self, clock: FakeClock) -> None:
        async with rigged(clock) as (rig, first):
            controllers = [first, *(rig.another(f"n{number}") for number in range(3))]
            await asyncio.sleep(10.0)
            for controller in controllers:
                try:
                    await started(controller)
                except RequestError:
                    continue
            await asyncio.sleep(10.0)
            writing = [controller for controller in controllers if controller.status.state == "writing"]
            assert len(writing) == 1
            assert writing[0].rollout("digits").rollout == "digits-1"

    async def test_the_one_that_lost_it_does_not_claim_it_back_because_it_can_not_be_read(
        self, clock: FakeClock
    ) -> None:
        async with rigged(clock) as (rig, first):
            await started(first)
            second = rig.another("two")
            reads = rig.store.before

            def unreadable() -> None:
                if first.status.state != "writing":
                    raise LogUnavailable("the server is gone")

            rig.store.before = unreadable
            await asyncio.sleep(10.0)
            assert first.status.state == "log_unavailable"
            rig.store.before = reads
            await asyncio.sleep(5.0)
            assert (first.status.state, second.status.state) == ("standby", "writing")
            assert folded(rig.store.open()).claim == Claim("two", "here")


async def test_a_controller_that_is_stopped_leaves_nothing_behind(clock: FakeClock) -> None:
    """Also if something waits for the log just then; ``run`` of the tests would find a task that is left."""
    async with rigged(clock) as (rig, controller):
        await started(controller)
        rig.error = FULL
        await asyncio.sleep(5.0)
        await rig.stop()
        await asyncio.sleep(5.0)
        assert controller.desired.rollouts["digits"].weight == 5
