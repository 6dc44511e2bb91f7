"""What a backup says of itself: the one file in it that names all others, each with its digest. Pure.

    backup.json                          this
    events.db                            the event log as an SQLite file, wherever it was
    withdrawn.json, system-id            what else of the state folder outlasts a run
    models/<model>/<version>/<file>      the registry, as it lies there

Not here: reading and writing them (``serving.backup.archive``). Nothing is signed: a backup is to be kept where only
those can write who may change the system.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from models.errors import InvalidName
from models.manifest import ModelVersion, check_name

FORMAT: Final = 1
CONTENTS: Final = "backup.json"
CONTENTS_MAX_BYTES: Final = 64 << 20
LOG: Final = "events.db"
WITHDRAWN: Final = "withdrawn.json"
SYSTEM_ID: Final = "system-id"
MODELS: Final = "models"
STATE: Final = (WITHDRAWN, SYSTEM_ID)

NEVER_KEPT: Final = (
    "cached predictions",
    "the file with the admin token",
    "serve_config.yaml",
    "logs and metrics",
)
"""What is never in a backup: secrets, and what comes back by itself."""

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class BackupError(Exception):
    """Base of what keeps a backup from being made or restored. The text is for a person."""


class BackupBroken(BackupError):
    """It isn't a backup, or not what was written any more."""


class KeptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the backup."""

    path: str
    sha256: str
    size_bytes: int


class LogEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last event that is in the backup; 0 if there was none yet."""

    seq: int
    hash: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """All that is in a backup. ``log`` is null if there was no event log; ``versions`` have the manifests' digests.

    ``broken`` are the versions that aren't in it because they weren't what had been published.
    """

    format: int = FORMAT
    holdfast: str
    created: str
    log: LogEnd | None
    versions: dict[str, str]
    broken: dict[str, str] = {}
    files: tuple[KeptFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def encode(contents: Contents) -> bytes:
    return msgspec.json.format(msgspec.json.encode(contents), indent=1) + b"\n"


def decode(raw: bytes) -> Contents:
    """What a ``backup.json`` says. Raises ``BackupBroken`` for what no backup of ours could say."""
    try:
        contents = msgspec.json.decode(raw, type=Contents)
    except (ValueError, RecursionError) as error:
        raise BackupBroken(f"{CONTENTS} can't be read: {error}") from None
    if contents.format != FORMAT:
        raise BackupBroken(f"{CONTENTS}: format {contents.format} is another Holdfast's; this one knows {FORMAT}")
    names = [file.path for file in contents.files]
    for name in names:
        if not is_file_of_a_backup(name):
            raise BackupBroken(f"{CONTENTS}: '{name}' has no place in a backup")
    if len(set(names)) != len(names):
        raise BackupBroken(f"{CONTENTS}: a file stands there twice")
    if (LOG in names) != (contents.log is not None):
        raise BackupBroken(f"{CONTENTS}: it contradicts itself about {LOG}")
    found = {f"{parts[1]}@{parts[2]}" for parts in (name.split("/") for name in names) if parts[0] == MODELS}
    if found != contents.versions.keys():
        raise BackupBroken(f"{CONTENTS}: its versions aren't those of its files")
    return contents


def is_file_of_a_backup(name: str) -> bool:
    """Whether a file of this name may be in a backup, beside ``backup.json``. Such a name never leads out of it."""
    if name in (LOG, *STATE):
        return True
    folder, *rest = name.split("/")
    if folder != MODELS or len(rest) != 3 or not _FILE_NAME.fullmatch(rest[2]):
        return False
    try:
        check_name("model", rest[0])
        check_name("version", rest[1])
    except InvalidName:
        return False
    return True


def path_of(version: ModelVersion, file: str) -> str:
    """Where a file of a version is in a backup."""
    return f"{MODELS}/{version.model}/{version.version}/{file}"
