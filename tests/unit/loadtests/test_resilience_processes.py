"""Finding processes by session and by name, and ending them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from loadtests.resilience.processes import kill, processes_of, rss_mb

PROGRAM = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own; ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "kelp-holdfast"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_a_process_is_found_by_its_session_or_its_name_as_long_as_it_lives(process: subprocess.Popen[bytes]) -> None:
    assert list(processes_of({process.pid}, "no such name")) == [process.pid]
    (command,) = processes_of((), "kelp-holdfast").values()
    assert command.endswith("kelp-holdfast")
    assert rss_mb(process.pid) > 0
    kill(process.pid)
    process.wait()
    assert processes_of({process.pid}, "kelp-holdfast") == {}
    assert math.isnan(rss_mb(process.pid))
    kill(process.pid)  # gone is gone


def test_we_are_none_of_those_that_are_looked_for() -> None:
    assert os.getpid() not in processes_of({os.getsid(0)}, "no such name")
