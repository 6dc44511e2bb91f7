"""SIGTERM is heard where Python's own ways don't hear it, and what there is to finish is finished once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from serving.leaving import Exit
from tests.fakes import FakeClock

AS_IN_A_RAY_WORKER = """
import asyncio, ctypes, signal, sys, threading
from serving.leaving import Exit, Sigterm

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Ray's own

async def leave():
    await asyncio.sleep(0.01)
    print("finished", flush=True)

async def replica():
    ending = Exit(leave, within_s=10)
    Sigterm(ending.begin)
    print("ready", flush=True)
    await asyncio.sleep(60)

thread = threading.Thread(target=lambda: asyncio.run(replica()), daemon=True)
thread.start()
libc = ctypes.CDLL(None)
while True:
    libc.usleep(60_000_000)  # the main thread is in C, and goes back there when a signal wakes it
"""


def test_a_worker_whose_main_thread_is_in_c_finishes_and_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", AS_IN_A_RAY_WORKER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "finished\n"
        assert process.wait(20) == 0


STARTING = AS_IN_A_RAY_WORKER.replace("import Exit, Sigterm", "import Exit, Sigterm, ends_at_once")


def test_while_it_starts_it_ends_at_once() -> None:
    program = STARTING.replace("Sigterm(ending.begin)", "ends_at_once(lambda: print('ended', flush=True))")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "ended\n"
        assert process.wait(20) == 0


def test_once_it_has_started_it_finishes_what_there_is() -> None:
    program = STARTING.replace(
        "Sigterm(ending.begin)", "ends_at_once(lambda: print('ended')).close(); Sigterm(ending.begin)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "finished\n"
        assert process.wait(20) == 0


async def test_however_often_it_is_told_a_replica_leaves_once(clock: FakeClock) -> None:
    left = 0

    async def leave() -> None:
        nonlocal left
        await asyncio.sleep(1)
        left += 1

    ending = Exit(leave, within_s=10)
    await asyncio.gather(ending.left(), ending.left())
    await ending.left()
    assert left == 1


async def test_a_replica_that_cannot_finish_ends_anyway(clock: FakeClock) -> None:
    ending = Exit(lambda: asyncio.sleep(1000), within_s=10)
    with pytest.raises(TimeoutError):
        await ending.left()
