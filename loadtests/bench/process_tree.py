"""What a server and everything it started cost: CPU time and memory from /proc. Linux only."""

import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """One line of /proc/<pid>/stat. CPU includes children that have ended and were waited for."""

    pid: int
    parent: int
    state: str
    started: int  # clock ticks after boot; with the pid it names a process for good
    cpu_ticks: int
    rss_pages: int


def parse_stat(text: str) -> Process:
    """Fields as in proc(5). The command's name may hold blanks and brackets, so split after the last bracket."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=int(head.split(" ", 1)[0]),
        state=fields[0],
        parent=int(fields[1]),
        cpu_ticks=sum(int(field) for field in fields[11:15]),
        started=int(fields[19]),
        rss_pages=int(fields[21]),
    )


def processes() -> dict[int, Process]:
    """Everything that runs now, by pid."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            process = read(int(entry.name))
            if process is not None:
                found[process.pid] = process
    return found


def read(pid: int) -> Process | None:
    """None when there is no such process (any more)."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(root: int, all_processes: dict[int, Process]) -> list[Process]:
    """`root` itself, if it still lives, and every process below it."""
    children: dict[int, list[Process]] = {}
    for process in all_processes.values():
        children.setdefault(process.parent, []).append(process)
    tree = [all_processes[root]] if root in all_processes else []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        tree += below
        waiting += [process.pid for process in below]
    return tree


def cpu_seconds(tree: list[Process]) -> float:
    """User plus system time."""
    return sum(process.cpu_ticks for process in tree) / TICKS_PER_S


def rss_bytes(tree: list[Process]) -> int:
    """Memory that processes share counts once for each of them."""
    return sum(process.rss_pages for process in tree) * PAGE_BYTES


def pss_bytes(tree: list[Process]) -> int | None:
    """Memory with what processes share divided among them: a sum that counts every page once.

    None when the kernel doesn't tell. Takes the kernel some milliseconds a process: not for a thread that samples.
    """
    total = 0
    for process in tree:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, or is a zombie
        except PermissionError:
            return None
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total or None


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned grandchildren, so that no daemon slips out of the tree."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class PeakMemory:
    """Samples the memory of a tree in a thread while its `with` block runs."""

    def __init__(self, tree: Callable[[], list[Process]], *, every_s: float = 0.5) -> None:
        self.peak_bytes = 0
        self._tree = tree
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, rss_bytes(self._tree()))
            if self._stop.wait(self._every_s):
                return
