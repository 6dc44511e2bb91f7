"""A temporary folder that lives as long as the process that made it, however that ends.

Not here: what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO, Final

LOCK: Final = "lock"


class OwnFolder:
    """A new folder whose name begins with ``prefix``, below ``base`` or else the system's temporary folder.

    Its owner holds a lock in it, which the kernel takes away at the owner's death: whoever makes the next one there
    removes those that nobody holds any more.
    """

    def __init__(self, prefix: str, *, base: Path | None = None) -> None:
        parent = base if base is not None else Path(tempfile.gettempdir())
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = (self.path / LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for other in parent.glob(f"{prefix}*"):
            if other != self.path:
                _remove_if_abandoned(other)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_if_abandoned(folder: Path) -> None:
    """One without a lock file is just being made; one that isn't ours to open belongs to another user."""
    with contextlib.suppress(OSError), (folder / LOCK).open("r+") as lock:
        if _free(lock):
            shutil.rmtree(folder, ignore_errors=True)


def _free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
