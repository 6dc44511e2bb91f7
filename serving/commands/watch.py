"""``holdfast rollout watch``: follows one rollout to its end, redrawn twice a second, or a line for each change.

The terminal is given back as it was, also on Ctrl-C and SIGTERM. Not here: what the screen says
(``serving.commands.screen``).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, NamedTuple, NoReturn, Protocol, TextIO

from serving.commands.asking import ROLLOUTS, CommandFailed, Holdfast, NobodyAnswers, Refused, decoded
from serving.commands.lines import change_line
from serving.commands.screen import render
from serving.rollout.report import ControllerReport, Overview, RolloutReport
from serving.rollout.state import Phase

POLL_S: Final = 0.5
ASK_TIMEOUT_S: Final = 3.0

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_REST: Final = "\x1b[J"


class Seen(NamedTuple):
    """One look. ``note`` says why it isn't of this moment, if it isn't."""

    report: RolloutReport
    controller: ControllerReport
    note: str = ""


class View(Protocol):
    def show(self, seen: Seen) -> None: ...


class Screen:
    """Redraws everything in place, on the terminal's other screen."""

    def __init__(self, out: TextIO, *, color: bool) -> None:
        self._out = out
        self._color = color

    def show(self, seen: Seen) -> None:
        size = shutil.get_terminal_size()
        lines = render(
            seen.report,
            size.columns,
            self._color,
            controller=seen.controller,
            note=seen.note,
            height=size.lines,
        )
        self._out.write(_HOME + f"{_CLEAR_LINE}\r\n".join(lines) + _CLEAR_LINE + _CLEAR_REST)
        self._out.flush()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        self._out.write(_ENTER)
        self._out.flush()
        try:
            yield
        finally:
            self._out.write(_LEAVE)
            self._out.flush()


class Lines:
    """A line for each change, for logs and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last: tuple[object, ...] = ()
        self._note = ""

    def show(self, seen: Seen) -> None:
        report = seen.report
        now = (report.rollout, report.phase, report.step, report.weight, report.reason)
        if now != self._last:
            self._out.write(f"{change_line(report, None)}\n")
        if bool(seen.note) != bool(self._note):
            self._out.write(f"{seen.note or 'Holdfast answers again'}\n")
        self._last, self._note = now, seen.note
        self._out.flush()


class Watch:
    """Looks again and again, also while nobody answers."""

    def __init__(
        self,
        holdfast: Holdfast,
        model: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holdfast = holdfast
        self._model = model
        self._sleep = sleep
        self._monotonic = monotonic

    def first(self) -> Seen:
        """Raises ``CommandFailed`` if there is nothing to watch."""
        return self._look()

    def follow(self, seen: Seen, view: View) -> Seen:
        """Show it until it is over. Raises ``CommandFailed`` if it can't be asked for any more."""
        at = self._monotonic()
        while True:
            view.show(seen)
            if seen.report.over and not seen.note:
                return seen
            self._sleep(POLL_S)
            try:
                seen, at = self._look(), self._monotonic()
            except (NobodyAnswers, Refused) as error:
                if isinstance(error, Refused) and not error.passing:
                    raise
                seen = seen._replace(note=f"{error}; trying again, what is here is {self._monotonic() - at:.0f} s old")

    def _look(self) -> Seen:
        overview = decoded(self._holdfast.get(ROLLOUTS), Overview)
        for report in overview.rollouts:
            if report.model == self._model:
                return Seen(report, overview.controller)
        state, detail = overview.controller.state, overview.controller.detail
        if state not in ("writing", "standby"):
            raise Refused(503, f"the controller's state is {state}" + (f": {detail}" if detail else ""))
        raise CommandFailed(f"'{self._model}' never had a rollout; `holdfast rollout status` shows those that had one")


def watch(watching: Watch, out: TextIO, *, plain: bool, color: bool) -> int:
    """0 if the rollout succeeded, 1 if it was taken back."""
    seen = watching.first()
    if plain:
        seen = watching.follow(seen, Lines(out))
    else:
        screen = Screen(out, color=color)
        with _ending_on_sigterm(), screen.entered():
            seen = watching.follow(seen, screen)
        last = render(seen.report, shutil.get_terminal_size().columns, color, controller=seen.controller)
        out.write("".join(f"{line}\n" for line in last))
    return 0 if seen.report.phase == Phase.SUCCEEDED.value else 1


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends as an exception does, so that what was changed is given back."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
