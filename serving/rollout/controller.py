"""The one shell of rollouts: it takes what people say, and keeps one event log after the other open.

Everything that is decided comes from the log, so this may die at any moment: the next one reads the log, claims it, and
goes on. Of two, the one that claimed it last writes; the other finds out at its next event, and only looks on. Not
here: what is decided (``serving.rollout.decide``), looking (``serving.rollout.looking``), doing
(``serving.rollout.doing``), Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from serving.clock import Clock
from serving.errors import InvalidRequest, RolloutNotFound, RolloutRefused, RolloutsUnavailable
from serving.rollout.desired import DesiredState, Entry
from serving.rollout.doing import Doer
from serving.rollout.event_log import EventLog, LogCorrupt, LogError, NotTheWriter
from serving.rollout.events import RULES, Abort, Pause, Promote, Resume, Rollback, Start
from serving.rollout.file import RolloutFileError, located, parse_rollout
from serving.rollout.history import Claim, Folded, History, folded, history
from serving.rollout.journal import Journal, writer_elsewhere
from serving.rollout.looking import Looker
from serving.rollout.state import IllegalMove, RolloutState
from serving.rollout.whole import whole
from serving.rollout.world import World

log = logging.getLogger("holdfast.control")

REOPEN_S: Final = 2.0
"""After trouble with the log, until it is opened again."""
LOOK_ON_S: Final = 10.0
"""The same while another one writes it: that one may be silent for much longer before it counts as gone."""
DAMAGED_S: Final = 30.0
"""The same if it is damaged, which only a person mends: all of it is read again."""
BLIND_START_S: Final = 5.0
"""A log that can't be read for so long keeps nothing from being served any more: what the settings say is served."""
LONG_READ_S: Final = 30.0
"""Nor does one that has not failed, but is still being read after so long."""
HISTORIES_MAX: Final = 8
"""So many may be asked for at a time; whoever gives a command must not have to wait behind more."""
RUNBOOK: Final = "docs/runbooks/HoldfastEventLogFailing.md says what to do"

COMMANDS: Final[dict[str, type[Pause | Resume | Promote | Abort | Rollback]]] = {
    "pause": Pause,
    "resume": Resume,
    "promote": Promote,
    "abort": Abort,
    "rollback": Rollback,
}


class Status(NamedTuple):
    """``detail`` says what is wrong and what follows from it; empty if nothing is."""

    state: Literal["starting", "writing", "standby", "log_unavailable", "log_corrupt"]
    detail: str = ""


class Controller:
    """``claim`` names this controller, another one in every process, and its Holdfast. ``open_log`` blocks."""

    def __init__(
        self,
        world: World,
        *,
        open_log: Callable[[], EventLog],
        claim: Claim,
        clock: Clock,
    ) -> None:
        self._world = world
        self._open_log = open_log
        self._claim = claim
        self._claimed = False
        self._known: Folded | None = None
        self._looked_on: Folded | None = None
        """What was read of the log while another one writes it."""
        self._clock = clock
        self._journal: Journal | None = None
        self._doer: Doer | None = None
        self._status = Status("starting")
        self._reader: EventLog | None = None
        self._reading = asyncio.Lock()
        self._histories = 0
        self._failed = asyncio.Event()
        """Set when the log couldn't be read once."""

    # What is known

    @property
    def status(self) -> Status:
        journal = self._journal
        if self._status.state == "writing" and journal is not None and journal.trouble:
            return Status("log_unavailable", f"nothing is decided until it can be written again: {journal.trouble}")
        return self._status

    @property
    def desired(self) -> DesiredState:
        """As far as it is known: empty before the log was read."""
        if self._journal is not None:
            return self._journal.desired
        return DesiredState() if self._known is None else self._known.desired

    @property
    def seq(self) -> int:
        """The newest event that is known here."""
        if self._journal is not None:
            return self._journal.seq
        return 0 if self._known is None else self._known.seq

    def rollout(self, model: str) -> RolloutState:
        """The model's latest. Raises ``RolloutNotFound``, and ``RolloutsUnavailable`` before the log was read."""
        if self._journal is None and self._known is None:
            raise RolloutsUnavailable(self._why_not())
        state = self.desired.rollouts.get(model)
        if state is None:
            raise RolloutNotFound(
                f"'{model}' never had a rollout; `holdfast rollout status` shows those that had one, `holdfast rollout "
                "start` starts one"
            )
        return state

    async def history(self, model: str, *, after: int, limit: int) -> History:
        """Events of the model's rollouts, read from the log. Raises ``RolloutsUnavailable``.

        Anybody may ask, so one is read at a time, over a connection of its own that stays open: opening one, and
        closing it, takes the turn of whoever writes.
        """
        return await whole(self._history(model, after, limit))

    async def _history(self, model: str, after: int, limit: int) -> History:
        if self._histories >= HISTORIES_MAX:
            raise RolloutsUnavailable(f"{HISTORIES_MAX} histories are being read already: ask again in a second")
        self._histories += 1
        try:
            async with self._reading:
                if self._reader is None:
                    self._reader = await asyncio.to_thread(self._open_log)
                return await asyncio.to_thread(history, self._reader, model, after, limit)
        except LogError as error:
            await self._close_reader()
            raise RolloutsUnavailable(f"the event log can't be read: {error}; {RUNBOOK}") from None
        finally:
            self._histories -= 1

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await asyncio.to_thread(reader.close)

    # What people say

    async def start(self, file: str, *, who: str, why: str) -> RolloutState:
        """Start the rollout that the file's text describes. If this raises, nothing has happened.

        Raises ``InvalidRequest`` with line and key, ``RolloutRefused``, ``RolloutsUnavailable``.
        """
        journal = self._writing()
        try:
            spec = parse_rollout(file)
        except RolloutFileError as error:
            raise InvalidRequest(str(error)) from None

        def start(desired: DesiredState) -> Entry:
            name, prior = desired.next_name(spec.model), self._world.stable(spec.model)
            at = self._clock.wall()
            return Entry(name, Start(at=at, rollout=name, spec=spec, prior=prior, who=who, why=why, rules=RULES))

        try:
            await self._world.check(spec, self._world.stable(spec.model))
            await self._command(journal, start)
        except (InvalidRequest, RolloutRefused) as error:
            raise type(error)(located(file, error.message)) from None
        return self.rollout(spec.model)

    async def command(self, model: str, command: str, *, who: str, why: str) -> RolloutState:
        """One of ``COMMANDS``. Raises ``RolloutNotFound``, ``RolloutRefused``, ``RolloutsUnavailable``."""
        journal = self._writing()
        self.rollout(model)
        event = COMMANDS[command](at=self._clock.wall(), who=who, why=why)
        await self._command(journal, lambda desired: Entry(desired.rollouts[model].rollout, event))
        return self.rollout(model)

    async def _command(self, journal: Journal, make: Callable[[DesiredState], Entry]) -> None:
        try:
            await journal.command(make)
        except IllegalMove as error:
            raise RolloutRefused(str(error)) from None
        except LogError as error:
            raise RolloutsUnavailable(
                f"it couldn't be written to the event log, so it isn't done, unless `holdfast rollout status` shows it "
                f"later: {error}"
            ) from None
        if self._doer is not None:
            self._doer.carry_out()

    def _writing(self) -> Journal:
        journal = self._journal
        if journal is None or self._status.state != "writing":  # in trouble, the command itself finds out
            raise RolloutsUnavailable(self._why_not())
        return journal

    def _why_not(self) -> str:
        state, detail = self.status
        known = f": {detail}" if detail else ""
        advice = "the event log is still being read: try again in a moment" if state == "starting" else RUNBOOK
        return f"rollouts can't be changed now, the controller's state is {state}{known}; {advice}"

    # One log after the other

    async def run(self) -> None:
        """Until it is cancelled."""
        blind = asyncio.ensure_future(self._begin_blind())
        try:
            while True:
                journal = await self._opened()
                if not isinstance(journal, Journal):
                    await asyncio.sleep(journal)
                    continue
                error = await self._follow(journal)
                log.error("this controller can't go on with the event log as it knows it: %s", error)
                self._known, self._journal = Folded(journal.desired, journal.seq), None
                self._status = _status_of(error)
        finally:
            blind.cancel()
            await self._close_reader()

    async def _begin_blind(self) -> None:
        """In time, if nothing is known of the log by then."""
        await asyncio.sleep(BLIND_START_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG_READ_S - BLIND_START_S):
                await self._failed.wait()
        if self._journal is None and self._known is None:
            log.error("the event log can't be read: what the settings say is served")
            self._world.begin(None)

    async def _opened(self) -> Journal | float:
        """The log, read and claimed; if that isn't possible now, the seconds until it is tried again."""
        event_log: EventLog | None = None
        rest_s = REOPEN_S
        try:
            event_log = await asyncio.to_thread(self._open_log)
            known = self._known = await asyncio.to_thread(folded, event_log, self._looked_on)
            self._looked_on = None
            elsewhere = writer_elsewhere(known, self._claim, claimed_before=self._claimed, wall=self._clock.wall())
            if not elsewhere:
                journal = await Journal.opened(event_log, known, claim=self._claim, clock=self._clock)
                self._claimed = True
                return journal
            self._tell(Status("standby", f"{elsewhere}; this controller only looks on"))
            self._looked_on, rest_s = known, LOOK_ON_S
            self._world.begin(known.desired)
        except NotTheWriter:
            log.info("another controller began at the same moment; the log is read again")
        except Exception as error:  # noqa: BLE001  # whatever a database's driver raises: it is tried again
            self._tell(_status_of(error))
            self._looked_on = None
            self._failed.set()
            rest_s = DAMAGED_S if isinstance(error, LogCorrupt) else REOPEN_S
        if event_log is not None:
            await asyncio.to_thread(event_log.close)
        return rest_s

    def _tell(self, status: Status) -> None:
        if status.state != self._status.state:
            log.error("rollouts: %s: %s", status.state, status.detail)
        self._status = status

    async def _follow(self, journal: Journal) -> LogError:
        """Look and do, as one journal says, until it has ended; returns why."""
        self._journal, self._status = journal, Status("writing")
        self._world.begin(journal.desired)
        doer = self._doer = Doer(journal, self._world, self._clock)
        looker = Looker(journal, self._world, self._clock, decided=doer.carry_out)
        doer.begin()
        looking = asyncio.ensure_future(looker.run())
        try:
            return await asyncio.shield(journal.ended)
        finally:
            looking.cancel()
            doer.stop()
            self._doer = None
            await journal.close()


def _status_of(error: Exception) -> Status:
    if isinstance(error, NotTheWriter):
        return Status("standby", str(error))
    return Status("log_corrupt" if isinstance(error, LogCorrupt) else "log_unavailable", str(error))
