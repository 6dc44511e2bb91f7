"""The event log as the controller writes it: nothing twice, nothing half, and never more than one who writes."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from serving.log_lines import FIELDS
from serving.rollout import journal as journals
from serving.rollout.desired import DesiredState, Entry, decode_entry, encode_entry
from serving.rollout.event_log import LogCorrupt, LogError, LogUnavailable, NotTheWriter
from serving.rollout.events import Abort, ClockTick, DeployVersion, VersionReady
from serving.rollout.history import Claim, Folded, folded, replayed
from serving.rollout.journal import ALIVE_S, DEAD_S, SNAPSHOT_EVERY, Journal, writer_elsewhere
from serving.rollout.state import IllegalMove, Phase
from tests.event_logs import MemoryStore, opened_journal
from tests.fakes import FakeClock, settled
from tests.rollouts import rollout_spec, start_of


class Disk(MemoryStore):
    """One that fails when it should: ``troubles`` come one for each transaction that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.troubles: list[str] = []
        self.away = False
        self.before = self._before
        self.after_write = self._after_write

    def _before(self) -> None:
        if self.away:
            raise LogUnavailable("the disk is full")

    def _after_write(self) -> None:
        if self.troubles:
            raise LogUnavailable(self.troubles.pop(0))

    def kinds(self) -> list[str]:
        return [
            event.kind if event.kind != "rollout" else type(decode_entry(event.payload).event).__name__
            for event in self.open().read()
        ]


@pytest.fixture
def disk() -> Disk:
    return Disk()


def start(_: DesiredState) -> Entry:
    return Entry("digits-1", start_of(rollout_spec()))


def abort(_: DesiredState) -> Entry:
    return Entry("digits-1", Abort(at=1001.0, who="anna"))


READY = Entry("digits-1", VersionReady(at=1002.0, effect=1))


async def opened(disk: Disk, clock: FakeClock, name: str = "one") -> Journal:
    return await opened_journal(disk, name, clock)


def phase_of(journal: Journal) -> Phase:
    return journal.desired.rollouts["digits"].phase


async def test_whoever_opens_it_claims_it(clock: FakeClock, disk: Disk) -> None:
    await opened(disk, clock)
    await opened(disk, clock, "two")
    assert [event.payload for event in disk.open().read()] == [
        msgspec.json.encode(Claim(name, "here")) for name in ("one", "two")
    ]
    assert folded(disk.open()).claim == Claim("two", "here")


async def test_what_is_heard_and_what_follows_from_it_are_recorded_together(clock: FakeClock, disk: Disk) -> None:
    journal = await opened(disk, clock)
    await journal.command(start)
    assert disk.kinds() == ["controller", "Start", "DeployVersion"]
    await journal.hear(READY)
    assert disk.kinds() == ["controller", "Start", "DeployVersion", "VersionReady", "SetWeight"]
    assert [event.cause for event in disk.open().read()] == [None, None, 2, None, 4]
    assert folded(disk.open())[:2] == (journal.desired, journal.seq)
    assert journal.desired.rollouts["digits"].phase is Phase.PROGRESSING


async def test_what_was_due_when_the_last_writer_died_is_decided_before_anything_else(
    clock: FakeClock, disk: Disk
) -> None:
    entry = start(DesiredState())
    disk.open().append("rollout", encode_entry(entry), wall=1.0)
    journal = await opened(disk, clock)
    assert disk.kinds() == ["Start", "controller", "DeployVersion"]
    assert isinstance(journal.desired.rollouts["digits"].open, DeployVersion)
    assert replayed(disk.open()).mismatches == 0


async def test_a_move_that_is_illegal_leaves_no_trace(clock: FakeClock, disk: Disk) -> None:
    journal = await opened(disk, clock)
    with pytest.raises(IllegalMove):
        await journal.command(abort)
    assert (disk.kinds(), journal.desired, journal.trouble) == (["controller"], DesiredState(), "")


async def test_the_one_that_lost_it_finds_out_and_has_changed_nothing(clock: FakeClock, disk: Disk) -> None:
    first = await opened(disk, clock)
    second = await opened(disk, clock, "two")
    with pytest.raises(NotTheWriter):
        await first.command(start)
    assert isinstance(first.ended.result(), NotTheWriter)
    with pytest.raises(NotTheWriter):
        await first.hear(READY)
    await second.command(start)
    assert disk.kinds() == ["controller", "controller", "Start", "DeployVersion"]


class TestWithoutTheLog:
    async def test_what_is_seen_waits_for_it(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)
        disk.away = True
        hearing = asyncio.create_task(journal.hear(READY))
        await asyncio.sleep(30.0)
        assert not hearing.done()
        assert journal.trouble == "the disk is full"
        assert phase_of(journal) is Phase.STARTING, "nothing follows from what isn't written"
        disk.away = False
        await hearing
        assert journal.trouble == ""
        assert phase_of(journal) is Phase.PROGRESSING

    async def test_a_command_is_refused_at_once_also_while_something_waits(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)
        disk.away = True
        before = clock.now
        with pytest.raises(LogUnavailable, match="full"):
            await journal.command(abort)
        hearing = asyncio.create_task(journal.hear(READY))
        await settled()
        with pytest.raises(LogUnavailable, match="full"):
            await journal.command(abort)
        assert clock.now - before < 0.1
        disk.away = False
        await hearing
        assert disk.kinds().count("Abort") == 0
        await journal.command(abort)
        assert journal.desired.rollouts["digits"].phase is Phase.ROLLING_BACK

    @pytest.mark.parametrize("lost", [1, 3])
    async def test_what_was_written_though_it_was_reported_as_failed_is_there_once(
        self, clock: FakeClock, disk: Disk, lost: int
    ) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)
        disk.troubles = ["the answer was lost"] * lost
        await journal.hear(READY)
        assert disk.kinds() == ["controller", "Start", "DeployVersion", "VersionReady", "SetWeight"]
        assert folded(disk.open())[:2] == (journal.desired, journal.seq)

    async def test_a_command_that_was_written_though_it_was_refused_ends_the_journal(
        self, clock: FakeClock, disk: Disk
    ) -> None:
        """It has to be read again: what it knows isn't what is there."""
        journal = await opened(disk, clock)
        disk.troubles = ["the answer was lost"]
        with pytest.raises(LogUnavailable):
            await journal.command(start)
        assert journal.desired == DesiredState()
        with pytest.raises(NotTheWriter):
            await journal.still_writes()
        assert isinstance(journal.ended.result(), NotTheWriter)
        again = await opened(disk, clock, "two")
        assert disk.kinds() == ["controller", "Start", "controller", "DeployVersion"]
        assert again.desired.rollouts["digits"].phase is Phase.STARTING

    async def test_an_idle_journal_finds_out_that_it_is_back(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        disk.away = True
        with pytest.raises(LogUnavailable):
            await journal.command(start)
        finding_out = asyncio.create_task(journal.still_writes())
        await asyncio.sleep(30.0)
        assert journal.trouble == "the disk is full"
        disk.away = False
        await finding_out
        assert journal.trouble == ""
        assert not journal.ended.done()

    async def test_who_waits_is_told_when_it_is_closed(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)
        disk.away = True
        hearing = asyncio.create_task(journal.hear(READY))
        await settled()
        await journal.close()
        with pytest.raises(LogError):
            await hearing


async def test_a_damaged_log_ends_it(clock: FakeClock, disk: Disk) -> None:
    journal = await opened(disk, clock)

    def damaged() -> None:
        raise LogCorrupt(3, "the row was altered")

    disk.before = damaged
    with pytest.raises(LogCorrupt):
        await journal.command(start)
    assert isinstance(journal.ended.result(), LogCorrupt)


async def test_a_caller_that_gives_up_leaves_the_log_and_what_is_known_of_it_the_same(
    clock: FakeClock, disk: Disk
) -> None:
    journal = await opened(disk, clock)
    await journal.command(start)
    disk.away = True
    hearing = asyncio.create_task(journal.hear(READY))
    await asyncio.sleep(1.0)
    hearing.cancel()
    await asyncio.sleep(1.0)
    assert hearing.cancelled()
    disk.away = False
    await asyncio.sleep(3.0)
    assert disk.kinds()[-2:] == ["VersionReady", "SetWeight"]
    assert folded(disk.open())[:2] == (journal.desired, journal.seq)


async def test_what_comes_at_once_is_recorded_one_after_the_other(clock: FakeClock, disk: Disk) -> None:
    journal = await opened(disk, clock)
    await journal.command(start)
    ticks = [Entry("digits-1", ClockTick(at=1000.0 + number)) for number in range(20)]
    await asyncio.gather(journal.hear(READY), *map(journal.hear, ticks))
    assert folded(disk.open())[:2] == (journal.desired, journal.seq)
    assert replayed(disk.open()).mismatches == 0


class TestSnapshots:
    async def test_a_snapshot_stands_for_what_is_before_it(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)
        await journal.keep_snapshot()
        snapshot = disk.open().latest_snapshot()
        assert snapshot is not None
        assert snapshot.seq == journal.seq
        assert (await opened(disk, clock)).desired == journal.desired

    async def test_it_is_wanted_when_much_has_been_written_since(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)
        for number in range(SNAPSHOT_EVERY):
            assert not journal.wants_snapshot or number >= SNAPSHOT_EVERY - 3
            await journal.hear(Entry("digits-1", ClockTick(at=1000.0 + number / 1000)))
        assert journal.wants_snapshot
        await journal.keep_snapshot()
        assert not journal.wants_snapshot

    @pytest.mark.parametrize("opened_every", [SNAPSHOT_EVERY, SNAPSHOT_EVERY // 3])
    async def test_an_idle_log_does_not_grow_without_end(
        self, clock: FakeClock, disk: Disk, monkeypatch: pytest.MonkeyPatch, opened_every: int
    ) -> None:
        """Also if no controller lives long enough to write much."""
        monkeypatch.setattr(journals, "KEEP_EVENTS", 2 * SNAPSHOT_EVERY)
        journal = await opened(disk, clock)
        for number in range(5 * SNAPSHOT_EVERY):
            if number % opened_every == opened_every - 1:
                journal = await opened(disk, clock)
            clock.advance(ALIVE_S)
            await journal.still_writes()
            await journal.keep_snapshot()
        kept = len(disk.kinds())
        assert kept <= 4 * SNAPSHOT_EVERY, "what is kept, and what comes between two snapshots"
        assert folded(disk.open())[:2] == (journal.desired, journal.seq)

    @pytest.mark.parametrize("error", [LogUnavailable("full"), LogCorrupt(1, "altered"), ValueError("too large")])
    async def test_one_that_fails_harms_nothing(self, clock: FakeClock, disk: Disk, error: Exception) -> None:
        journal = await opened(disk, clock)
        await journal.command(start)

        def fail() -> None:
            raise error

        before, disk.before = disk.before, fail
        await journal.keep_snapshot()
        disk.before = before
        await journal.hear(READY)
        assert journal.desired.rollouts["digits"].phase is Phase.PROGRESSING


class TestWhoWrites:
    async def test_an_idle_journal_finds_out_that_another_one_has_claimed_the_log(
        self, clock: FakeClock, disk: Disk
    ) -> None:
        first = await opened(disk, clock)
        await first.still_writes()
        assert not first.ended.done()
        await opened(disk, clock, "two")
        await first.still_writes()
        assert isinstance(first.ended.result(), NotTheWriter)

    async def test_an_idle_one_says_now_and_then_that_it_is_alive(self, clock: FakeClock, disk: Disk) -> None:
        journal = await opened(disk, clock)
        for _ in range(10):
            await asyncio.sleep(ALIVE_S / 5)
            await journal.still_writes()
        assert disk.kinds() == ["controller"] * 3
        assert folded(disk.open()).wall >= clock.wall() - ALIVE_S

    @pytest.mark.parametrize(
        ("claim", "silent_s", "claimed_before", "said"),
        [
            (None, 0.0, False, ""),
            (Claim("me", "here"), 0.0, True, ""),
            (Claim("a", "here"), 0.0, False, ""),
            (Claim("a", "here"), 0.0, True, "a later controller of this Holdfast (a)"),
            (Claim("a", "there"), 0.0, False, "another Holdfast (there)"),
            (Claim("a", "there"), 0.0, True, "another Holdfast (there)"),
            (Claim("a", "there"), DEAD_S - 1, False, "another Holdfast (there)"),
            (Claim("a", "there"), -86_400.0, False, "another Holdfast (there)"),  # a clock was put back
            (Claim("a", "there"), DEAD_S + 1, False, ""),
            (Claim("a", "here"), DEAD_S + 1, True, ""),
        ],
    )
    def test_of_several_the_right_one_does(
        self, claim: Claim | None, silent_s: float, claimed_before: bool, said: str
    ) -> None:
        known = Folded(DesiredState(), 9, claim, 1000.0)
        found = writer_elsewhere(known, Claim("me", "here"), claimed_before=claimed_before, wall=1000.0 + silent_s)
        assert found.startswith(said)
        assert bool(found) is bool(said)


async def test_the_log_tells_what_happens_in_words_that_can_be_searched_for(
    clock: FakeClock, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "holdfast.control")
    journal = await opened(disk, clock)
    await journal.command(start)
    await journal.hear(READY)
    await journal.hear(Entry("digits-1", ClockTick(at=1003.0)))
    await journal.command(abort)
    assert [record.getMessage() for record in caplog.records] == [
        "digits-1: Start",
        "digits-1: DeployVersion",
        "digits-1: VersionReady",
        "digits-1: SetWeight",
        "digits-1: Abort",
        "digits-1: RollBackNow",
    ]
    known = [getattr(record, FIELDS) for record in caplog.records]
    assert {(each["rollout"], each["model"], each["version"]) for each in known} == {("digits-1", "digits", "v2")}
    assert known[3]["weight"] == 5
    assert known[4]["who"] == "anna"
    assert [each["event"] for each in known] == [2, 3, 4, 5, 7, 8]
    assert [record.levelname for record in caplog.records[-2:]] == ["INFO", "WARNING"]
