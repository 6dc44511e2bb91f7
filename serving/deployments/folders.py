"""Where the files of one run are, and those that outlast it.

Not here: Ray, because ``serving.up`` needs this before Ray starts.
"""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from pathlib import Path

from serving.routing.table_file import write_whole
from serving.settings import Settings


def metrics_dir(run_dir: str) -> Path:
    return Path(run_dir) / "metrics"


def table_path(run_dir: str) -> Path:
    return Path(run_dir) / "routing.json"


def withdrawn_path(settings: Settings) -> Path:
    """Beside the cached answers, which outlast a run as well."""
    return Path(settings.state_dir) / "withdrawn.json"


def cache_dir(settings: Settings) -> Path:
    """Cached predictions, which outlast a run and may be thrown away."""
    return Path(settings.state_dir) / "cache"


def system_id_path(settings: Settings) -> Path:
    return Path(settings.state_dir) / "system-id"


def socket_dir(settings: Settings, run_dir: str) -> Path:
    """The sockets of one run; under the temporary folder, because their paths must be short."""
    base = settings.channel.socket_dir or tempfile.gettempdir()
    return Path(base) / f"holdfast-{Path(run_dir).name}"


def system_id(settings: Settings) -> str:
    """What tells this Holdfast from others that might use the same event log: it lies in the state folder."""
    path = system_id_path(settings)
    with contextlib.suppress(FileNotFoundError):
        if found := path.read_text(encoding="ascii").strip():
            return found
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{uuid.uuid4().hex}\n".encode())
    return system_id(settings)
