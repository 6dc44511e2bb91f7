import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from loadtests.bench import process_tree
from loadtests.bench.process_tree import PeakMemory, Process

STAT = "42 (a (very) odd name) S 7 42 42 0 -1 4194304 1 2 3 4 150 30 20 5 20 0 1 0 987654 1000000 250 184 1 1"

# Starts a grandchild that has burnt CPU by the time it prints, and lives until stdin closes.
CHILD = """
import subprocess, sys
burn = "import sys, time\\nwhile time.process_time() < 0.3: pass\\nprint('ready', flush=True); sys.stdin.read()"
subprocess.run([sys.executable, "-c", burn])
"""


@contextmanager
def child_with_grandchild() -> Iterator[int]:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    assert process_tree.parse_stat(STAT) == Process(
        pid=42, parent=7, state="S", started=987654, cpu_ticks=205, rss_pages=250
    )


def test_the_tree_is_the_root_and_all_below_it() -> None:
    parents = {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}
    everything = {pid: Process(pid, parent, "S", 0, 0, 0) for pid, parent in parents.items()}

    assert {process.pid for process in process_tree.descendants(2, everything)} == {2, 3, 4}


def test_children_of_a_root_that_has_ended_are_still_found() -> None:
    everything = {3: Process(3, 2, "S", 0, 0, 0)}

    assert [process.pid for process in process_tree.descendants(2, everything)] == [3]


def test_cpu_and_memory_of_a_grandchild_count() -> None:
    with child_with_grandchild() as pid:
        tree = process_tree.descendants(pid, process_tree.processes())
        alone = [process for process in tree if process.pid == pid]

        assert len(tree) == 2
        assert process_tree.cpu_seconds(tree) >= 0.3
        assert process_tree.rss_bytes(tree) > process_tree.rss_bytes(alone) > 0


def test_cpu_of_a_child_that_has_ended_stays_in_its_parent() -> None:
    before = process_tree.cpu_seconds([own()])
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)

    assert process_tree.cpu_seconds([own()]) - before >= 0.29  # a clock tick is 10 ms


def test_peak_memory_keeps_the_highest_sample() -> None:
    page = process_tree.PAGE_BYTES
    trees = iter([[Process(1, 0, "S", 0, 0, pages)] for pages in (5, 9, 2)])
    served: list[Process] = []

    def tree() -> list[Process]:
        served[:] = next(trees, served)
        return served

    with PeakMemory(tree, every_s=0.0) as memory:
        while served != [Process(1, 0, "S", 0, 0, 2)]:
            pass

    assert memory.peak_bytes == 9 * page


def test_a_pid_that_is_not_there_is_none() -> None:
    assert process_tree.read(2**22 + 1) is None


def own() -> Process:
    process = process_tree.read(os.getpid())
    assert process is not None
    return process


def test_memory_that_processes_share_counts_once_in_pss() -> None:
    me = process_tree.read(os.getpid())
    assert me is not None

    pss_bytes = process_tree.pss_bytes([me])

    assert pss_bytes is not None
    assert 0 < pss_bytes <= process_tree.rss_bytes([me]) * 1.1  # the second is read a moment later
    assert process_tree.pss_bytes([]) is None
