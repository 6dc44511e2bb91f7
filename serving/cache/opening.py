"""Opens the node's store, whatever state it is in: what can't be used is moved aside and begun anew.

A damaged LMDB file doesn't always raise; it can kill the process that reads it. So a process of its own reads all of
it first. A file that can't be checked, on a machine that is too slow or too full for it, may be fine and in use by
other gateways: it stays where it is, and this process does without. Nothing here may keep a gateway from starting.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from serving.cache.store import DATA_FILE, LmdbStore

log = logging.getLogger("holdfast.cache")

ASIDE: Final = ".damaged"
"""What a folder's name ends in once it was moved aside. Only the last one is kept."""

CHECK_TIMEOUT_S: Final = 20.0

_ATTEMPTS: Final = 3
_FROM_OUTSIDE: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
"""Signals that no file causes: somebody stops us, or the machine is out of memory."""

# Every row from its place in the index, then every page, the free ones too: LMDB's copy adds them up.
_CHECK: Final = """
import os, sys
try:
    import lmdb
except ImportError:
    sys.exit(0)  # this Python finds its packages in another way than its parent; that says nothing about the file
env = lmdb.open(sys.argv[1], map_size=int(sys.argv[2]), readonly=True, max_dbs=2, max_readers=512)
if env.stat()["entries"] >= 2:
    rows, index = env.open_db(b"rows", create=False), env.open_db(b"index", create=False)
    with env.begin(buffers=True) as txn:
        if txn.stat(rows)["entries"] != txn.stat(index)["entries"]: sys.exit("the index doesn't fit the rows")
        for key, place in txn.cursor(index):
            row = txn.get(place, db=rows)
            if row is None or row[:32] != key or row[-1] < 0: sys.exit("the index doesn't fit the rows")
with open(os.devnull, "wb") as nowhere:
    env.copyfd(nowhere.fileno(), compact=True)
"""


def open_store(folder: Path, *, max_bytes: int) -> LmdbStore | None:
    """The store in ``folder``, begun anew if it has to be. None if it can't be used, or can't be checked.

    Takes as long as reading the file does; not for an event loop. Never raises.
    """
    import lmdb

    fault: object = None
    for _ in range(_ATTEMPTS):
        inode = _inode(folder)
        try:
            fault = _fault(folder, max_bytes=max_bytes)
        except _Unchecked as error:
            log.error("no cached predictions in this process: %s: %s; it is left as it is", folder, error)
            return None
        try:
            if fault is None:
                return LmdbStore(folder, max_bytes=max_bytes)
        except (lmdb.Error, OSError) as error:
            fault = error
        try:
            _set_aside(folder, inode)
        except OSError as error:
            fault = error
            break
        log.warning("%s: %s; the cached predictions begin anew, the old ones are in %s", folder, fault, _aside(folder))
    log.error("no cached predictions on this node: %s: %s", folder, fault)
    return None


class _Unchecked(Exception):
    """Nobody could say whether the store is fine; the text says why."""


def _fault(folder: Path, *, max_bytes: int) -> str | None:
    """What is wrong with the store, or None if it is fine or not there yet. Raises ``_Unchecked``."""
    try:
        size = (folder / DATA_FILE).stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        return str(error)
    if size > max_bytes:
        return f"it has {size} bytes and may have {max_bytes}"
    command = [sys.executable, "-P", "-c", _CHECK, str(folder), str(max_bytes)]
    try:
        result = subprocess.run(
            command, capture_output=True, check=False, text=True, errors="replace", timeout=CHECK_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise _Unchecked(f"reading it took longer than {CHECK_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise _Unchecked(f"it couldn't be checked: {error}") from None
    if -result.returncode in _FROM_OUTSIDE:
        raise _Unchecked(f"the check was ended by signal {-result.returncode}")
    if result.returncode:
        said = result.stderr.strip().splitlines()
        return f"damaged: {said[-1] if said else f'reading it ended with signal {-result.returncode}'}"
    return None


def _set_aside(folder: Path, inode: int | None) -> None:
    """Rename the folder, unless another process has done so and begun anew meanwhile."""
    if _inode(folder) != inode:
        return
    aside = _aside(folder)
    with suppress(FileNotFoundError):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink()
    with suppress(FileNotFoundError):
        folder.rename(aside)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ASIDE)


def _inode(folder: Path) -> int | None:
    try:
        return (folder / DATA_FILE).stat().st_ino
    except OSError:
        return None
