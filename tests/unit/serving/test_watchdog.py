"""The watchdog ends a process whose loop or model hangs, and says where; it leaves a busy one alone."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serving.channel.runner import Job, ModelRunner
from serving.clock import SystemClock
from serving.watchdog import EXIT_CODE, LoopTurns, ModelRuns, UnderWay, Watchdog, Watched
from tests.fakes import DOUBLE, HeldModel, work_of

CLOCK = SystemClock()
LIMIT_S = 0.2
LONG_S = 20.0


class Ended:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.reason = ""
        self.event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reason = reason
        self.event.set()


@contextmanager
def watched(*parts: Watched) -> Iterator[Ended]:
    ended = Ended()
    watchdog = Watchdog(parts, limit_s=LIMIT_S, clock=CLOCK, end=ended)
    yield ended
    watchdog.stop()


async def test_a_loop_that_does_not_turn_is_noticed_with_its_stack() -> None:
    def a_blocking_call(ended: Ended) -> None:
        assert ended.event.wait(LONG_S)

    with watched(LoopTurns(asyncio.get_running_loop())) as ended:
        a_blocking_call(ended)
    assert ended.reason.startswith("a turn of the event loop takes longer than 0.2 s: ")
    assert "a_blocking_call (test_watchdog.py:" in ended.reason
    assert "\n" not in ended.reason


async def test_a_run_of_the_model_that_hangs_is_noticed_with_the_stack_of_its_thread() -> None:
    model = HeldModel()
    runner = ModelRunner(model.run, DOUBLE, clock=CLOCK, max_waiting=9)
    model.hold()
    with watched(LoopTurns(asyncio.get_running_loop()), ModelRuns(runner.under_way)) as ended:
        runner.submit(Job(work_of([1], deadline=CLOCK.monotonic() + 60), lambda _: None))
        assert await asyncio.to_thread(ended.event.wait, LONG_S)
    assert ended.reason.startswith("a run of the model takes longer than 0.2 s: ")
    assert "run (fakes.py:" in ended.reason
    model.let_go()
    await runner.drained()
    runner.close()


async def test_work_without_end_in_short_runs_is_left_alone() -> None:
    looked = 0

    class Busy:
        """Another run each time one looks."""

        name = "a run of the model"

        def under_way(self) -> UnderWay:
            nonlocal looked
            looked += 1
            if looked == 100:
                enough.set()
            return UnderWay(looked, 0)

    enough = threading.Event()
    with watched(Busy(), LoopTurns(asyncio.get_running_loop())) as ended:
        assert await asyncio.to_thread(enough.wait, LONG_S)
    assert not ended.event.is_set()


PROGRAM = """
import sys
from serving.deployments.process import set_up_logging
from serving.settings import Settings
from serving.watchdog import end_process, lines_of_the_log
if sys.argv[1:]:
    set_up_logging(Settings(log_format=sys.argv[1]))
end_process("a turn takes longer than 5 s: f (x.py:1)", lines=lines_of_the_log())
"""
SAID = r"a turn takes longer than 5 s: f \(x\.py:1\); ending process \d+"


@pytest.mark.parametrize("log_format", ["", "text", "json"])
def test_the_end_is_one_line_of_the_log_and_a_code_of_its_own(log_format: str) -> None:
    """With a time like all others: people sort the log of all processes by it."""
    program = [sys.executable, "-c", PROGRAM, *([log_format] if log_format else [])]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    if log_format == "json":
        told = json.loads(line)
        assert (told["level"], told["logger"]) == ("CRITICAL", "holdfast.watchdog")
        assert re.fullmatch(moment, told["time"])
        assert re.fullmatch(SAID, told["message"])
    else:
        assert re.fullmatch(rf"{moment} CRITICAL holdfast\.watchdog: {SAID}", line)
    assert done.returncode == EXIT_CODE
