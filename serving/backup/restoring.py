"""Puts a backup in place: unpacked beside, verified wholly, and only then moved to where it belongs.

What was there before is moved into a folder beside it, never deleted. If anything fails on the way, all of it is as it
was. A machine that dies while things are moved leaves a mark, so that no Holdfast starts on half of a backup. Not
here: reading a backup's files (``serving.backup.archive``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from models.errors import ModelError
from models.filesystem import FileSystem
from models.registry import LOCK_FILE, Registry
from serving.backup.archive import Reader, reading
from serving.backup.contents import (
    CONTENTS,
    LOG,
    MODELS,
    STATE,
    SYSTEM_ID,
    BackupBroken,
    BackupError,
    Contents,
    KeptFile,
    LogEnd,
    decode,
)
from serving.cluster import UNFINISHED_RESTORE, StartError, lock_state
from serving.deployments.folders import cache_dir, withdrawn_path
from serving.ingress.keeper import HaproxyFiles, running_pid
from serving.rollout.event_log import LogError
from serving.rollout.history import replayed
from serving.rollout.log_copy import check_copy, is_there, opened_copy, put_into_postgres, sqlite_file
from serving.rollout.log_sqlite import files_of, note_written
from serving.settings import Settings

STAGING: Final = ".restoring"
ASIDE: Final = ".before-restore-"


class Restored(NamedTuple):
    """What was done. ``aside`` are the places where what was there before is now."""

    contents: Contents
    aside: list[str]
    decisions: int
    mismatches: int
    """Decisions in the log that this Holdfast would take otherwise, because it is another release."""


def restore(
    settings: Settings, source: Path, *, now: datetime, force: bool = False, keep_log: bool = False
) -> Restored:
    """Put the backup in place. Raises ``BackupError`` if that can't or mustn't be; then nothing has changed.

    ``keep_log`` leaves the event log that is there alone: it may be newer, in a PostgreSQL that has survived.
    """
    if not source.exists():
        raise BackupError(f"{source}: there is no such backup")
    try:
        with _nobody_running(settings):
            return _restored(settings, source, now=now, force=force, keep_log=keep_log)
    except (StartError, LogError) as error:
        raise BackupError(str(error)) from error
    except OSError as error:
        raise BackupError(f"{error.filename or source}: {error.strerror or error}") from error


@contextlib.contextmanager
def _nobody_running(settings: Settings) -> Iterator[None]:
    """Holds the state folder, as a Holdfast does that runs. Raises ``StartError`` if one has it."""
    with lock_state(settings):
        pid = running_pid(HaproxyFiles(settings))  # that of one that Ray Serve's own commands have started
        if pid is not None:
            raise StartError(f"state_dir: a Holdfast runs with {settings.state_dir}: its HAProxy is process {pid}")
        yield


def _restored(settings: Settings, source: Path, *, now: datetime, force: bool, keep_log: bool) -> Restored:
    log_file = sqlite_file(settings.event_log_place)
    state, store = Path(settings.state_dir), settings.store_dir
    with reading(source) as reader, _staging(state, store, *([log_file.parent] if log_file else [])) as staged:
        contents = _contents(reader)
        with_log = contents.log is not None and not keep_log
        found = list(map(str, [*_old_models(store), *([] if keep_log else _old_state(settings))]))
        found += [settings.event_log_shown] if with_log and _log_is_there(settings) else []
        if found and not force:
            raise BackupError(
                f"there is something already, and nothing was changed: {', '.join(found)}; "
                "--force moves that aside and keeps it"
            )
        log_home = staged[log_file.parent] if log_file else staged[state]
        copy = _unpacked(reader, contents, state=staged[state], store=staged[store], log=log_home)
        decisions, mismatches = _checked_log(contents, copy)
        _check_versions(contents, staged[store] / MODELS)
        placing = _Placing(settings, staged[state], staged[store] / MODELS, copy, now, keep_log=keep_log)
        aside = placing.place(contents.log)
    return Restored(contents, aside, decisions, mismatches)


# What is in the backup


def _contents(reader: Reader) -> Contents:
    contents = decode(reader.contents())
    listed = {file.path for file in contents.files} | {CONTENTS}
    there = set(reader.names())
    for name in sorted(listed - there):
        raise BackupBroken(f"{name} is missing in the backup")
    for name in sorted(there - listed):
        raise BackupBroken(f"'{name}' is in the backup, but isn't named in its {CONTENTS}")
    return contents


def _unpacked(reader: Reader, contents: Contents, *, state: Path, store: Path, log: Path) -> Path:
    """Every file written to where it can be moved from, and its digest found right; the copy of the log."""
    for file in contents.files:
        reader.unpack(file, _home(file, state=state, store=store, log=log))
    return log / LOG


def _home(file: KeptFile, *, state: Path, store: Path, log: Path) -> Path:
    if file.path == LOG:
        return log
    return store if file.path.startswith(f"{MODELS}/") else state


def _checked_log(contents: Contents, copy: Path) -> tuple[int, int]:
    """How many decisions are in the log, and how many of them would be others now. Raises ``BackupBroken``."""
    if contents.log is None:
        return 0, 0
    try:
        end = check_copy(copy)
        with opened_copy(copy) as log:
            again = replayed(log)
    except LogError as error:
        raise BackupBroken(f"the event log in the backup: {error}") from error
    if end != (contents.log.seq, contents.log.hash):
        raise BackupBroken(f"the event log in the backup ends at event {end[0]}, not at {contents.log.seq} as it says")
    return again.decisions, again.mismatches


def _check_versions(contents: Contents, root: Path) -> None:
    """Every version as published, and no other. The digests of files say only what was written into the backup."""
    registry = Registry(root)
    for name in registry.versions():
        try:
            manifest = registry.verify(*name)
        except ModelError as error:
            raise BackupBroken(f"the backup's registry: {error}") from error
        if manifest.digest != contents.versions.get(str(name)):
            raise BackupBroken(f"{name} in the backup is {manifest.digest}, not {contents.versions.get(str(name))}")
    missing = contents.versions.keys() - set(map(str, registry.versions()))
    if missing:
        raise BackupBroken(f"{min(missing)} is named in the backup, but has no manifest in it")


# What is there already


def _old_state(settings: Settings) -> list[Path]:
    """What outlasts a run. Cached answers, too: the restored log doesn't know of versions withdrawn after it."""
    ours = (withdrawn_path(settings), cache_dir(settings))
    return [path for path in ours if path.exists()]


def _log_is_there(settings: Settings) -> bool:
    """Raises ``BackupError`` if it can't be looked at."""
    try:
        return is_there(settings.event_log_place)
    except ValueError as error:
        raise BackupError(f"event_log: {error}") from None


def _old_models(store: Path) -> list[Path]:
    return [store / name for name in FileSystem().names(store) if not name.startswith(".")]


# Putting it there


class _Placing:
    """Moves what is staged to where it belongs: the versions, the state, and last the log, by which all is decided."""

    def __init__(
        self, settings: Settings, staged_state: Path, staged_models: Path, copy: Path, now: datetime, *, keep_log: bool
    ) -> None:
        self._settings = settings
        self._state = staged_state
        self._models = staged_models
        self._copy = copy
        self._keep_log = keep_log
        self._stamp = now.astimezone(UTC).strftime("%Y%m%dt%H%M%Sz")
        self._moves = _Moves(f"{ASIDE}{self._stamp}")
        self._tables_aside: list[str] = []

    def place(self, log: LogEnd | None) -> list[str]:
        """Where what was there before is now. Raises what went wrong, after everything was moved back."""
        unfinished = Path(self._settings.state_dir) / UNFINISHED_RESTORE
        of_before = unfinished.exists()  # then what is there stays half of a backup until one is wholly in place
        unfinished.write_text(f"{self._stamp}\n")
        FileSystem().sync(unfinished.parent)
        try:
            self._place_models()
            self._place_state()
            if log is not None and not self._keep_log:
                self._place_log(log)
        except BaseException:
            self._moves.undo()
            if not of_before:
                unfinished.unlink()
            raise
        unfinished.unlink()
        FileSystem().sync(unfinished.parent)
        return [*map(str, self._moves.folders), *self._tables_aside]

    def _place_models(self) -> None:
        store = self._settings.store_dir
        for folder, _, _ in os.walk(self._models):
            FileSystem().sync(Path(folder))
        with FileSystem().lock(store / LOCK_FILE):
            self._moves.aside(_old_models(store))
            for model in FileSystem().names(self._models):
                self._moves.move(self._models / model, store / model)
        FileSystem().sync(store)

    def _place_state(self) -> None:
        home = Path(self._settings.state_dir)
        names = [name for name in FileSystem().names(self._state) if name in STATE]
        if self._keep_log:  # what is there belongs to the log that is there
            names = [name for name in names if not (home / name).exists()]
        else:
            replaced = [home / name for name in names if name == SYSTEM_ID and (home / name).exists()]
            self._moves.aside([*_old_state(self._settings), *replaced])
        for name in names:
            self._moves.move(self._state / name, home / name)
        FileSystem().sync(home)

    def _place_log(self, log: LogEnd) -> None:
        file = sqlite_file(self._settings.event_log_place)
        if file is None:
            name = f"before_restore_{self._stamp}"
            if put_into_postgres(self._copy, self._settings.event_log_place, aside=name):
                self._tables_aside.append(f"{self._settings.event_log_shown}: holdfast_events_{name}")
            return
        self._moves.aside(one for one in files_of(file) if one.exists())
        self._moves.move(self._copy, file)
        note_written(file, log.seq)


class _Moves:
    """Renames within a file system, which can be taken back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: list[tuple[Path, Path]] = []
        self.folders: list[Path] = []

    def aside(self, paths: Iterable[Path]) -> None:
        """Each into a folder beside it."""
        for path in paths:
            folder = path.parent / self._name
            if folder not in self.folders:
                folder.mkdir(mode=0o700)
                self.folders.append(folder)
            self.move(path, folder / path.name)

    def undo(self) -> None:
        for source, target in reversed(self._done):
            target.rename(source)
        for folder in self.folders:
            folder.rmdir()

    def move(self, source: Path, target: Path) -> None:
        source.rename(target)
        self._done.append((source, target))


@contextlib.contextmanager
def _staging(*homes: Path) -> Iterator[dict[Path, Path]]:
    """For each folder one in it, so that moving from there is only renaming; what an earlier restore left goes."""
    made: dict[Path, Path] = {}
    try:
        for home in dict.fromkeys(homes):
            home.mkdir(parents=True, exist_ok=True)
            made[home] = home / STAGING
            shutil.rmtree(made[home], ignore_errors=True)
            os.mkdir(made[home], 0o700)  # noqa: PTH102  # not where another user may have put something meanwhile
        yield made
    finally:
        for folder in made.values():
            shutil.rmtree(folder, ignore_errors=True)
