"""A version's files for a replica on another node, from the head node's store, through Ray's own object store.

Not here: whether the files are right (``models.registry`` verifies all of them before they are loaded).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from models.errors import ModelError
from models.manifest import MANIFEST_FILE, ModelVersion
from models.registry import Registry
from serving.deployments.nodes import ON_HEAD
from serving.errors import LoadFailed

PIECE_BYTES: Final = 8 << 20
PIECES_AHEAD: Final = 4
"""So many pieces wait in the object store at most: a large version needs no more room there than a small one."""


def pieces_of(store: Path, name: ModelVersion, *, piece_bytes: int = PIECE_BYTES) -> Iterator[tuple[str, bytes]]:
    """A version's files, the manifest first, in pieces: the file's name, and the bytes that come next in it.

    Raises ``ModelError`` for a version that isn't there, and ``OSError``.
    """
    registry = Registry(store)
    manifest = registry.manifest(*name)
    directory = registry.directory(*name)
    for file in (MANIFEST_FILE, *(listed.path for listed in manifest.files)):
        with (directory / file).open("rb") as source:
            yield file, source.read(piece_bytes)
            while piece := source.read(piece_bytes):
                yield file, piece


def put_together(pieces: Iterable[tuple[str, bytes]], directory: Path) -> int:
    """Write the files into ``directory``, which is made; how many bytes they have."""
    directory.mkdir(parents=True)
    written = 0
    for file, piece in pieces:
        if "/" in file or file in ("", ".", ".."):
            raise LoadFailed(f"'{file}' isn't a plain file name")
        with (directory / file).open("ab") as target:
            written += target.write(piece)
    return written


@ray.remote(num_cpus=0, resources=dict(ON_HEAD), max_retries=0)
def _read(store: str, name: ModelVersion) -> Iterator[tuple[str, bytes]]:
    yield from pieces_of(Path(store), name)


def fetch(store: Path, name: ModelVersion, directory: Path) -> int:
    """Copy a version's files from the head node's ``store`` into ``directory``; how many bytes. Not on an event loop.

    Raises ``ModelError`` if the store has no such version, else ``LoadFailed``.
    """
    reader: Any = _read
    try:
        pieces = reader.options(_generator_backpressure_num_objects=PIECES_AHEAD).remote(str(store), name)
        return put_together((ray.get(piece) for piece in pieces), directory)
    except RayTaskError as error:
        if isinstance(error.cause, ModelError):
            raise error.cause from None
        raise LoadFailed(f"the head node can't read {name} in {store}: {error.cause}") from None
    except RayError as error:
        raise LoadFailed(f"{name} can't be fetched from the head node: {type(error).__name__}: {error}") from None
    except OSError as error:
        raise LoadFailed(f"{name} was fetched and can't be written to {directory}: {error.strerror}") from None
