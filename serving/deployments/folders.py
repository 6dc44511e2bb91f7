"""Where the files of one run are, and those that outlast it.

Not here: Ray, because ``serving.up`` needs this before Ray starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
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
    if (found := known_system_id(settings)) is not None:
        return found
    path = system_id_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # several processes ask at once, and all must get the same
        if (found := known_system_id(settings)) is None:
            found = uuid.uuid4().hex
            write_whole(path, f"{found}\n".encode())
    finally:
        os.close(folder)
    return found


def known_system_id(settings: Settings) -> str | None:
    """The same, None if there is none yet."""
    with contextlib.suppress(FileNotFoundError):
        return system_id_path(settings).read_text(encoding="ascii").strip() or None
    return None


def system_mark(settings: Settings, system_id: str) -> str:
    """What gateways are known by: 16 characters that no other Holdfast on this machine has.

    A copy of a state folder has the id of the first one, so its path goes in as well.
    """
    return hashlib.sha256(f"{system_id} {settings.state_dir}".encode()).hexdigest()[:16]
