"""Metrics of processes on other nodes, brought into the folder of those here as files of prometheus_client's own form.

A process on another node writes to a folder of its own there (``serving.metrics.open_metrics``). What is in it is
brought here again and again, and ``/metrics`` doesn't know the difference. Not here: the bringing
(``serving.deployments.away``).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SHIP_S: Final = 5.0
"""How often a process on another node tells its figures."""
SILENT_S: Final = 4 * SHIP_S
"""One that was silent for so long is taken for dead: its gauges go, its counters stay."""

_NAME: Final = re.compile(r"(counter|histogram|gauge_[a-z]+)_[^_]+\.db")
_KIND: Final = re.compile(r"counter|histogram|gauge_[a-z]+")
_SOURCE: Final = re.compile(r"[0-9a-z]+-[0-9a-z]+")
_LENGTH: Final = struct.Struct("i")


def read_metrics(folder: Path) -> dict[str, bytes]:
    """By kind (``counter``, ``gauge_livesum``, ...), the used part of each file that this process writes to."""
    found: dict[str, bytes] = {}
    for path in folder.glob("*.db"):
        if (name := _NAME.fullmatch(path.name)) is not None:
            raw = path.read_bytes()
            (used,) = _LENGTH.unpack_from(raw) if len(raw) >= _LENGTH.size else (0,)
            if used:
                found[name[1]] = raw[:used]
    return found


def take_metrics(folder: Path, source: str, files: Mapping[str, bytes]) -> None:
    """Put the files of another node's process in the place of those that it sent before.

    ``source`` stands for the process, where those of this node have their pid: ``node-process``, which no pid looks
    like. Raises ``ValueError`` for a name that isn't what it should be.
    """
    if _SOURCE.fullmatch(source) is None:
        raise ValueError(f"'{source}' doesn't name a process on another node")
    for kind, raw in files.items():
        if _KIND.fullmatch(kind) is None:
            raise ValueError(f"'{kind}' is no kind of metrics")
        path = folder / f"{kind}_{source}.db"
        part = path.with_suffix(".part")
        part.write_bytes(raw)
        part.replace(path)


def silent(path: Path, *, now: float) -> bool:
    """Whether the file of another node's process wasn't brought for so long that it must have died; ``now``: epoch."""
    try:
        return now - path.stat().st_mtime > SILENT_S
    except FileNotFoundError:
        return False
