"""Which versions are withdrawn, on disk: as long-lived as the cached answers that may not be given any more.

The routing table says so too, but lies in a folder of one run (``serving.routing.table_file``). Written by the control
plane alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from serving.routing.table_file import write_whole


class WithdrawnFile:
    """The digests of withdrawn versions, each with the reason, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        """What was written last, nothing if nothing was. Raises ``ValueError`` if the file holds something else."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except ValueError as error:  # msgspec's own errors, and what isn't UTF-8
            raise ValueError(f"{self._path} doesn't say which versions are withdrawn: {error}") from None

    def write(self, withdrawn: Mapping[str, str]) -> None:
        """Whole or not at all, and durable when it returns."""
        write_whole(self._path, msgspec.json.encode(withdrawn))
