"""The event log as the controller writes it, together with what it folds to.

What is recorded is on the disk before anything follows from it, and the decisions that it makes due are recorded in the
same turn. Not here: carrying them out (``serving.rollout.controller``), where rows lie (``serving.rollout.event_log``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from serving.clock import Clock
from serving.log_lines import fields
from serving.own_thread import OwnThread
from serving.rollout.desired import DesiredState, Entry, due, encode_desired, encode_entry, recorded
from serving.rollout.event_log import EventLog, LogCorrupt, LogError, LogUnavailable, NotTheWriter
from serving.rollout.events import ClockTick, Observed, RollBackNow, VersionFailed
from serving.rollout.history import CONTROLLER_KIND, ROLLOUT_KIND, Claim, Folded
from serving.rollout.whole import whole

log = logging.getLogger("holdfast.control")

ALIVE_S: Final = 60.0
"""At least so often a controller writes something, though nothing happens."""
DEAD_S: Final = 180.0
"""A controller that has written nothing for so long is gone, and another Holdfast's may take its place."""
SNAPSHOT_EVERY: Final = 1000
KEEP_EVENTS: Final = 100_000
"""So many events stay readable; what is older only stands in a snapshot."""
_WAITS_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Between tries to write. The last one is repeated."""


_SAID: Final = ("weight", "step", "cause", "outcome", "reason", "acknowledged", "gateways", "who", "why")
"""What an event may say of itself that a line of the log repeats."""


class Journal:
    """``trouble`` says why nothing can be written now, and is empty if something can."""

    def __init__(self, event_log: EventLog, known: Folded, *, claim: Claim, clock: Clock) -> None:
        self._log = event_log
        self._claim = claim
        self._clock = clock
        self._thread = OwnThread("journal")
        self._turn = asyncio.Lock()
        self._snapshot_at = known.snapshot
        self._snapshot_of = known.desired
        self._written_at = clock.monotonic()
        self.desired = known.desired
        self.seq = known.seq
        self.trouble = ""
        self.ended: asyncio.Future[LogError] = asyncio.get_running_loop().create_future()
        """Why this journal can't go on: another one writes, or the log is damaged. It must be opened anew."""

    @classmethod
    async def opened(cls, event_log: EventLog, known: Folded, *, claim: Claim, clock: Clock) -> Journal:
        """Claims a log that was read: whoever wrote it so far finds out at the next event.

        What was due when the last writer died is decided at once. Raises ``LogError``.
        """
        journal = cls(event_log, known, claim=claim, clock=clock)
        await journal._append(CONTROLLER_KIND, msgspec.json.encode(claim), cause=None, patient=False)
        await whole(journal._decide())
        return journal

    async def hear(self, entry: Entry) -> None:
        """Record what was seen, and what has to be decided then; waits as long as the log can't be written.

        Raises ``IllegalMove``, and ``LogError`` if this journal has ended.
        """
        await whole(self._hear(lambda _: entry, patient=True))

    async def command(self, make: Callable[[DesiredState], Entry]) -> None:
        """Record what a person wants. Raises ``IllegalMove``; ``LogError`` if it can't be written now.

        Then it isn't tried again. It may be in the log all the same (``LogUnavailable``): that shows when it is read.
        """
        if self.trouble and self._turn.locked():  # something waits for the log already; nobody knows how long
            raise LogUnavailable(self.trouble)
        await whole(self._hear(make, patient=False))

    async def close(self) -> None:
        """Whoever still waits for the log is told that this journal has ended."""
        self._end(LogUnavailable("the log was closed"))
        await self._thread.do(self._log.close)
        self._thread.close()

    async def still_writes(self) -> None:
        """Find out whether another one has claimed the log, and say now and then that this one hasn't gone.

        What is recorded does both, so this is for the times in between. Never raises but ``LogError``.
        """
        async with self._turn:
            if self.trouble or self._clock.monotonic() - self._written_at >= ALIVE_S:
                await self._append(CONTROLLER_KIND, msgspec.json.encode(self._claim), cause=None, patient=True)
                return
            if self.ended.done():
                return
            try:
                await self._thread.do(self._check_head, self.seq)
            except LogUnavailable as error:
                self._in_trouble(error)
            except LogError as error:
                self._end(error)
            else:
                self.trouble = ""

    async def keep_snapshot(self) -> None:
        """A later start needn't fold all of the log, and the oldest of it may go. Never raises."""
        async with self._turn:
            seq, desired = self.seq, self.desired
            if self.ended.done() or (desired is self._snapshot_of and not self.wants_snapshot):
                return
            try:
                await self._thread.do(self._kept, seq, encode_desired(desired))
            except LogUnavailable as error:
                self._in_trouble(error)
                return
            except NotTheWriter as error:
                self._end(error)
                return
            except (LogError, ValueError) as error:
                log.warning("no snapshot of the event log was kept: %s", error)
            else:
                self.trouble = ""
                self._snapshot_at, self._snapshot_of = seq, desired

    def _kept(self, seq: int, state: bytes) -> None:
        self._check_head(seq)
        self._log.snapshot(seq, state)
        self._log.compact(max(seq - KEEP_EVENTS, 1))

    def _check_head(self, seq: int) -> None:
        newest = self._log.head()[0]
        if newest != seq:
            raise NotTheWriter(f"the log ends at event {newest}, not at {seq} as it is known here")

    @property
    def wants_snapshot(self) -> bool:
        """Whether much has been written since the last one, be it only that this controller writes still."""
        return self.seq - self._snapshot_at >= SNAPSHOT_EVERY

    async def _hear(self, make: Callable[[DesiredState], Entry], *, patient: bool) -> None:
        async with self._turn:
            if self.ended.done():  # what is known here says nothing any more, also not what is illegal
                raise self.ended.result()
            await self._record(make(self.desired), cause=None, patient=patient)
            await self._decide()

    async def _decide(self) -> None:
        while decisions := due(self.desired):
            for decision in decisions:
                await self._record(decision, cause=self.seq, patient=True)

    async def _record(self, entry: Entry, *, cause: int | None, patient: bool) -> None:
        desired = recorded(self.desired, entry)
        await self._append(ROLLOUT_KIND, encode_entry(entry), cause=cause, patient=patient)
        self.desired = desired
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        """A line for everything that happens but windows and time, so that a log alone tells a rollout's story."""
        event = entry.event
        state = self.desired.find(entry.rollout)
        if state is None or isinstance(event, Observed | ClockTick):
            return
        said = {name: value for name in _SAID if (value := getattr(event, name, None)) is not None}
        log.log(
            logging.WARNING if isinstance(event, RollBackNow | VersionFailed) else logging.INFO,
            "%s: %s",
            entry.rollout,
            type(event).__name__,
            extra=fields(
                rollout=entry.rollout, model=state.spec.model, version=state.spec.version, event=self.seq, **said
            ),
        )

    async def _append(self, kind: str, payload: bytes, *, cause: int | None, patient: bool) -> None:
        tried = 0
        while True:
            if self.ended.done():
                raise self.ended.result()
            try:
                event = await self._thread.do(self._log.append, kind, payload, wall=self._clock.wall(), cause=cause)
            except LogUnavailable as error:
                self._in_trouble(error)
                if not patient:
                    raise
                await asyncio.sleep(_WAITS_S[min(tried, len(_WAITS_S) - 1)])
                tried += 1
            except (NotTheWriter, LogCorrupt) as error:
                self._end(error)
                raise
            else:
                self.trouble = ""
                self.seq, self._written_at = event.seq, self._clock.monotonic()
                return

    def _in_trouble(self, error: LogUnavailable) -> None:
        if not self.trouble:
            log.error("the event log can't be written, so nothing is decided: %s", error)
        self.trouble = str(error)

    def _end(self, error: LogError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


def writer_elsewhere(known: Folded, claim: Claim, *, claimed_before: bool, wall: float) -> str:
    """Why this controller must leave the log to another one now; nothing if it may claim it.

    A Holdfast has one controller, so a later one of it takes the place of an earlier; one that has claimed the log
    before and finds a later one's claim is the earlier. Those of different ones must not take the log from each other
    again and again.
    """
    other, silent_s = known.claim, wall - known.wall
    if other is None or other.controller == claim.controller or silent_s > DEAD_S:
        return ""
    if other.system != claim.system:
        return (
            f"another Holdfast ({other.system}) writes this event log, {max(silent_s, 0):.0f} s ago at the latest; "
            "every one needs a log of its own (setting event_log)"
        )
    return f"a later controller of this Holdfast ({other.controller}) writes the event log" if claimed_before else ""
