"""Where a process's counts lie: a file whose room on the disk is taken before it is written to.

prometheus_client maps a file that is mostly a hole. On a full disk the first write into a hole ends the process
(SIGBUS), and its successor as soon as that counts. So here every byte of a file is allocated first; as long as that
fails, the process counts in memory and tries again, and only who asks for the metrics misses something.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

FIRST_BYTES: Final = 64 << 10
TRY_AGAIN_S: Final = 2.0
_ENTRY_BYTES: Final = 32
"""More than what an entry has beside its key: a length, padding, a value and a time."""


class AllocatedDict(MmapedDict):
    """prometheus_client's own dict of doubles, in its own format, on another way to its memory."""

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._positions: dict[str, int] = {}
        self._found_place = False
        self._next_try = 0.0
        before = b""
        with contextlib.suppress(OSError):
            before = self._path.read_bytes()  # of a process that had the same number: its counts go on
        self._capacity = max(FIRST_BYTES, len(before))
        self._m = mmap.mmap(-1, self._capacity)
        self._m[: len(before)] = before
        self._used = int.from_bytes(self._m[:4], "little") or 8
        self._m[:4] = self._used.to_bytes(4, "little")
        for key, _, _, position in self._read_all_values():  # type: ignore[no-untyped-call]
            self._positions[key] = position
        self._find_place()

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        if not self._found_place and time.monotonic() >= self._next_try:
            self._find_place()
        super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._m.close()

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            self._grow(len(key.encode()) + _ENTRY_BYTES)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, more_bytes: int) -> None:
        while self._used + more_bytes > self._capacity:
            self._capacity *= 2
        larger = mmap.mmap(-1, self._capacity)
        larger[: self._used] = self._m[: self._used]
        self._m = larger
        self._find_place()

    def _find_place(self) -> None:
        """Go on in a new file, which takes the old one's place at once; in memory if the disk has no room for it."""
        self._next_try = time.monotonic() + TRY_AGAIN_S
        part = self._path.with_suffix(".part")  # whoever collects the metrics looks for `.db`
        try:
            with part.open("w+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._capacity)
                mapped = mmap.mmap(file.fileno(), self._capacity)
                mapped[: self._used] = self._m[: self._used]
                part.replace(self._path)
        except OSError:
            self._found_place = False
            with contextlib.suppress(OSError):
                part.unlink()
        else:
            self._m = mapped
            self._found_place = True


def count_into_allocated_files() -> None:
    """From now on, in this process. It has to be called before anything is counted."""
    values.MmapedDict = AllocatedDict  # type: ignore[assignment,attr-defined]
