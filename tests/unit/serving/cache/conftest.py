"""What the cache tests share: short ways to a question, an answer and a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.cache.store import LmdbStore

MIB = 1 << 20


@pytest.fixture
def open_lmdb(tmp_path: Path) -> Iterator[Callable[..., LmdbStore]]:
    """Opens stores in ``tmp_path`` and closes them at the end."""
    opened: list[LmdbStore] = []

    def open_one(name: str = "cache", *, max_bytes: int = MIB, rewrite_after_s: float = 0.0) -> LmdbStore:
        opened.append(LmdbStore(tmp_path / name, max_bytes=max_bytes, rewrite_after_s=rewrite_after_s))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()
