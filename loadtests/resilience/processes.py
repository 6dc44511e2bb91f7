"""Processes, seen from outside: by /proc, and ended by pid. Linux only."""

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path


def processes_of(sessions: Collection[int], name: str) -> dict[int, str]:
    """Command lines by pid of all that live in these sessions, or whose command line or environment has the name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            command = _text(entry / "cmdline")
            if state != "Z" and (int(session) in sessions or name in command + _text(entry / "environ")):
                found[int(entry.name)] = command
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def rss_mb(pid: int) -> float:
    """Memory that is the process's own and in use; NaN if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return float("nan")
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _text(path: Path) -> str:
    return path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
