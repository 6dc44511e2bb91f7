"""The few file system steps that a registry takes, one method each, so that a test can fail any of them.

Not here: the order of the steps, which is what makes a publication safe (``models.registry``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 20


class FileSystem:
    """A local POSIX file system. A step is done when its method returns; it is durable once it is synced."""

    def make_directory(self, path: Path) -> None:
        """Makes one directory; that it is there already is fine."""
        path.mkdir(exist_ok=True)

    def write(self, path: Path, content: Path | bytes) -> None:
        """Writes a new file, from bytes or as a copy of another file."""
        with path.open("xb") as target:
            if isinstance(content, bytes):
                target.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def sync(self, path: Path) -> None:
        """Waits until a file's bytes, or a directory's entries, would survive a loss of power."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Moves a directory in one step. Raises ``OSError`` if ``target`` is a directory that isn't empty."""
        source.rename(target)

    def remove_tree(self, path: Path) -> None:
        """Removes a directory and all in it."""
        shutil.rmtree(path)

    def names(self, path: Path) -> list[str]:
        """The sorted names in a directory; none if there is no such directory."""
        try:
            return sorted(entry.name for entry in path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: Path) -> bytes:
        """A file's bytes."""
        return path.read_bytes()

    def digest(self, path: Path) -> tuple[str, int]:
        """A file's SHA-256 in hex, and its size in bytes."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return sha256, file.tell()

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Waits until nobody else holds this lock, and holds it. The kernel lets go of it if the process dies."""
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
