"""What every program here does the same way for whoever started it."""

import signal
import time
from collections.abc import Callable
from types import FrameType


def sigterm_is_ctrl_c() -> None:
    """From here on SIGTERM ends the program as Ctrl-C does, so that it cleans up what it has started."""
    signal.signal(signal.SIGTERM, _interrupt)


def timed() -> Callable[[str], None]:
    """Prints lines, each with the seconds since now."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    return say


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
