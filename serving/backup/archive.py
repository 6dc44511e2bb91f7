"""A backup as a folder or as one tar file: written whole or not at all, and never over something.

Not here: what belongs in it, and whether what is read is what was written (``serving.backup.making``, ``restoring``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final, Protocol

from models.filesystem import FileSystem
from serving.backup.contents import CONTENTS, CONTENTS_MAX_BYTES, BackupBroken, BackupError, KeptFile

TAR: Final = ".tar"
_CHUNK_BYTES: Final = 1 << 20
_PACKED: Final = (".tgz", ".gz", ".xz", ".bz2", ".zst", ".zip")


class Writer(Protocol):
    """Takes files one after the other. What it wrote appears when it is finished."""

    def add(self, name: str, source: Path | bytes) -> KeptFile: ...

    def finish(self) -> None:
        """Durable, and in its place, when this returns."""
        ...


class Reader(Protocol):
    """A backup that is there."""

    def names(self) -> list[str]:
        """All files in it. Raises ``BackupBroken`` for what is no plain file."""
        ...

    def contents(self) -> bytes:
        """The bytes of ``backup.json``."""
        ...

    def unpack(self, file: KeptFile, folder: Path) -> Path:
        """Write the file below ``folder`` and return where. Raises ``BackupBroken`` if it isn't what it should be."""
        ...


@contextlib.contextmanager
def writing(target: Path) -> Iterator[Writer]:
    """A writer whose half-done work is removed if it isn't finished. Raises ``BackupError`` if something is there."""
    if target.name.endswith(_PACKED):
        raise BackupError(f"{target}: a backup is a folder or a {TAR} file; compress that as you like")
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target}: something is there already; a backup never replaces one")
    if not target.parent.is_dir():
        raise BackupError(f"{target}: there is no folder {target.parent}")
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.suffix == TAR:
            with contextlib.closing(_TarWriter(staged, target)) as writer:
                yield writer
        else:
            yield _FolderWriter(staged, target)
    finally:
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        else:
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(source: Path) -> Iterator[Reader]:
    """Raises ``BackupError`` if nothing is there, ``BackupBroken`` if it is no backup."""
    if source.is_dir():
        yield _FolderReader(source)
        return
    try:
        with tarfile.open(source) as tar:
            yield _TarReader(source, tar)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:  # packed ones are opened as well
        raise BackupBroken(
            f"{source}: not a tar file, or a damaged one: {str(error) or 'its end is missing'}"
        ) from None


class _FolderWriter:
    def __init__(self, staged: Path, target: Path) -> None:
        self._staged = staged
        self._target = target
        staged.mkdir(mode=0o700)

    def add(self, name: str, source: Path | bytes) -> KeptFile:
        path = self._staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(source) as file, path.open("xb") as written:
            digest = _Digesting(file)
            shutil.copyfileobj(digest, written, _CHUNK_BYTES)
            written.flush()
            os.fsync(written.fileno())
        return digest.kept(name)

    def finish(self) -> None:
        for folder, _, _ in os.walk(self._staged):
            FileSystem().sync(Path(folder))
        self._staged.rename(self._target)
        FileSystem().sync(self._target.parent)


class _TarWriter:
    def __init__(self, staged: Path, target: Path) -> None:
        self._staged = staged
        self._target = target
        self._file = os.fdopen(os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # see close

    def add(self, name: str, source: Path | bytes) -> KeptFile:
        info = tarfile.TarInfo(name)
        info.mode = 0o600
        with _opened(source) as file:
            info.size = file.seek(0, io.SEEK_END)
            file.seek(0)
            digest = _Digesting(file)
            self._tar.addfile(info, digest)  # raises if the file is shorter than it was a moment ago
        return digest.kept(name)

    def finish(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._staged.rename(self._target)
        FileSystem().sync(self._target.parent)

    def close(self) -> None:
        self._file.close()


class _FolderReader:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> list[str]:
        found = []
        for path in sorted(self._root.rglob("*")):
            name = str(path.relative_to(self._root))
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BackupBroken(f"{self._root}: '{name}' is no plain file")
            if path.is_file():
                found.append(name)
        return found

    def contents(self) -> bytes:
        path = self._root / CONTENTS
        if not path.is_file():
            raise BackupBroken(f"{self._root}: there is no {CONTENTS} in it, so it is no backup")
        return path.read_bytes()

    def unpack(self, file: KeptFile, folder: Path) -> Path:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._root / file.path, target, follow_symlinks=False)
        return _checked(target, file)


class _TarReader:
    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        self._members = self._read()

    def names(self) -> list[str]:
        return sorted(self._members)

    def contents(self) -> bytes:
        member = self._members.get(CONTENTS)
        if member is None:
            raise BackupBroken(f"{self._path}: there is no {CONTENTS} in it, so it is no backup, or its end is missing")
        if member.size > CONTENTS_MAX_BYTES:
            raise BackupBroken(f"{self._path}: {CONTENTS} has {member.size} bytes")
        file = self._tar.extractfile(member)
        assert file is not None  # it is a plain file
        return file.read()

    def unpack(self, file: KeptFile, folder: Path) -> Path:
        member = self._members[file.path]
        if member.size != file.size_bytes:  # before it fills the disk
            raise BackupBroken(f"{file.path} has {member.size} bytes, {file.size_bytes} were written")
        self._tar.extract(member, folder, set_attrs=False, filter="data")
        return _checked(folder / file.path, file)

    def _read(self) -> Mapping[str, tarfile.TarInfo]:
        members: dict[str, tarfile.TarInfo] = {}
        for member in self._tar.getmembers():
            if member.isdir():  # whoever packs a folder by hand packs these as well
                continue
            name = member.name.removeprefix("./")
            if not member.isreg() or name in members:
                raise BackupBroken(f"{self._path}: '{name}' is no plain file, or is there twice")
            members[name] = member
        return members


class _Digesting:
    """A file that is read once, from start to end, and digested on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._sha256.update(chunk)
        self._size += len(chunk)
        return chunk

    def kept(self, name: str) -> KeptFile:
        return KeptFile(name, self._sha256.hexdigest(), self._size)


def _opened(source: Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _checked(path: Path, file: KeptFile) -> Path:
    FileSystem().sync(path)
    if FileSystem().digest(path) != (file.sha256, file.size_bytes):
        raise BackupBroken(f"{file.path} isn't what was written into the backup: its digest is another")
    return path
