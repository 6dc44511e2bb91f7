"""Makes a backup beside a running Holdfast: first the event log, then the versions that it may speak of.

Published versions never change and none goes away, so what is copied later holds all that the log knows. Not here:
where it is written (``serving.backup.archive``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from models.errors import ModelError
from models.manifest import MANIFEST_FILE, ModelVersion
from models.registry import Registry
from serving.backup.archive import Writer, writing
from serving.backup.contents import (
    CONTENTS,
    LOG,
    SYSTEM_ID,
    WITHDRAWN,
    BackupError,
    Contents,
    KeptFile,
    LogEnd,
    encode,
    path_of,
)
from serving.deployments.folders import system_id_path, withdrawn_path
from serving.rollout.event_log import LogError, LogMissing
from serving.rollout.log_copy import copy_log
from serving.settings import Settings


def back_up(
    settings: Settings,
    target: Path,
    *,
    now: datetime,
    holdfast: str,
    say: Callable[[str], None] = lambda _: None,
) -> Contents:
    """Write a backup and return what is in it. Raises ``BackupError``; then nothing is left of it.

    A version that isn't what was published is left out, and told as ``broken``: all others are worth keeping.
    """
    target = target.absolute()
    if target.is_relative_to(settings.store_dir):
        raise BackupError(f"{target}: a backup inside the store would be taken for a model")
    try:
        with writing(target) as writer:
            contents = _written(settings, writer, target.parent, now=now, holdfast=holdfast, say=say)
            writer.add(CONTENTS, encode(contents))
            writer.finish()
    except OSError as error:
        raise BackupError(f"{error.filename or target}: {error.strerror or error}") from error
    return contents


def _written(
    settings: Settings, writer: Writer, beside: Path, *, now: datetime, holdfast: str, say: Callable[[str], None]
) -> Contents:
    files: list[KeptFile] = []
    log = _add_log(settings, writer, beside, files)
    say("there is no event log yet" if log is None else f"event log up to event {log.seq}")
    for kept, path in ((WITHDRAWN, withdrawn_path(settings)), (SYSTEM_ID, system_id_path(settings))):
        if path.is_file():
            files.append(writer.add(kept, path))
    registry = Registry(settings.store_dir)
    versions, broken = dict[str, str](), dict[str, str]()
    for name in registry.versions():
        try:
            added, digest = _add_version(registry, name, writer)
        except ModelError as error:
            broken[str(name)] = str(error)
            continue
        files += added
        versions[str(name)] = digest
        say(f"{name} {digest}")
    return Contents(
        holdfast=holdfast,
        created=now.isoformat(timespec="seconds"),
        log=log,
        versions=versions,
        broken=broken,
        files=tuple(files),
    )


def _add_log(settings: Settings, writer: Writer, beside: Path, files: list[KeptFile]) -> LogEnd | None:
    with tempfile.TemporaryDirectory(prefix=".holdfast-", dir=beside) as folder:  # there is room for it, or for nothing
        copy = Path(folder) / LOG
        try:
            end = copy_log(settings.event_log_place, copy)
        except LogMissing:
            return None
        except (LogError, ValueError) as error:
            raise BackupError(f"the event log: {error}") from error
        files.append(writer.add(LOG, copy))
        return LogEnd(*end)


def _add_version(registry: Registry, name: ModelVersion, writer: Writer) -> tuple[list[KeptFile], str]:
    """Raises ``ModelError`` before anything of it is written, if it isn't what was published."""
    manifest = registry.verify(*name)
    folder = registry.directory(*name)
    kept = [writer.add(path_of(name, file.path), folder / file.path) for file in manifest.files]
    for file, published in zip(kept, manifest.files, strict=True):
        if file.sha256 != published.sha256:
            raise BackupError(f"{file.path} has changed while it was copied, though versions never change")
    return [*kept, writer.add(path_of(name, MANIFEST_FILE), manifest.to_bytes())], manifest.digest
