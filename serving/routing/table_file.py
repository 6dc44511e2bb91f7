"""The last published routing table on disk: a gateway that starts reads it even when the control plane is dead.

Written by the control plane alone, as a whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path

from serving.routing.table import EMPTY, RoutingTable, table_from_json, table_to_json


class TableFile:
    """One table in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> RoutingTable:
        """The table, ``EMPTY`` if none was ever written. Raises ``ValueError`` if the file holds something else."""
        try:
            return table_from_json(self._path.read_bytes())
        except FileNotFoundError:
            return EMPTY

    def write(self, table: RoutingTable) -> None:
        """Durable when it returns."""
        write_whole(self._path, table_to_json(table))


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of the file: whole or not at all, and durable when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    with staged.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
