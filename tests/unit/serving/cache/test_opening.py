"""A gateway starts whatever it finds where its store should be."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.cache import opening
from serving.cache.opening import ASIDE, open_store
from serving.cache.store import DATA_FILE, LmdbStore, Row

MIB = 1 << 20


def key(number: int) -> bytes:
    return number.to_bytes(32)


def filled(folder: Path, *, max_bytes: int = 4 * MIB) -> bytes:
    """A store with 2000 rows of different sizes; its file."""
    store = open_store(folder, max_bytes=max_bytes)
    assert store is not None
    rows = [Row(key(number), 100.0, "v1", bytes([number % 256]) * (number % 700)) for number in range(2000)]
    store.put_many(rows, now_wall=100.0)
    store.close()
    return (folder / DATA_FILE).read_bytes()


def works(store: LmdbStore | None) -> bool:
    assert store is not None
    store.put_many([Row(key(1), 200.0, "v1", b"new")], now_wall=200.0)
    found = store.get(key(1))
    new = found is not None and bytes(found) == b"new"
    store.close()
    return new


def test_a_sound_store_is_opened_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path / "cache")
    store = open_store(tmp_path / "cache", max_bytes=4 * MIB)
    assert store is not None
    assert store.usage().entries == 2000
    store.close()
    assert caplog.records == []
    assert not (tmp_path / ("cache" + ASIDE)).exists()


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def zeros_in_the_middle(raw: bytes) -> bytes:
    return raw[: 4 * 4096] + bytes(len(raw) - 8 * 4096) + raw[-4 * 4096 :]


def noise(raw: bytes) -> bytes:
    return random.Random(7).randbytes(len(raw))


def noise_behind_the_head(raw: bytes) -> bytes:
    return raw[: 2 * 4096] + random.Random(8).randbytes(len(raw) - 2 * 4096)


def text(raw: bytes) -> bytes:
    return b"this is no store"


@pytest.mark.parametrize("damage", [cut, zeros_in_the_middle, noise, noise_behind_the_head, text])
def test_a_damaged_file_is_moved_aside_and_begun_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    damaged = damage(filled(folder))
    (folder / DATA_FILE).write_bytes(damaged)
    assert works(open_store(folder, max_bytes=4 * MIB))
    assert (tmp_path / ("cache" + ASIDE) / DATA_FILE).read_bytes() == damaged, "kept, for whoever wants to know why"
    assert len(caplog.records) == 1
    assert "begin anew" in caplog.text


@pytest.mark.parametrize("seed", range(12))
def test_a_page_of_noise_anywhere_keeps_nobody_from_starting(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    raw = bytearray(filled(folder))
    chance = random.Random(seed)
    page = chance.randrange(len(raw) // 4096)
    raw[page * 4096 : (page + 1) * 4096] = chance.randbytes(4096)
    (folder / DATA_FILE).write_bytes(raw)
    assert works(open_store(folder, max_bytes=4 * MIB))


def test_only_the_last_damaged_store_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for turn in range(3):
        filled(folder)
        (folder / DATA_FILE).write_bytes(b"damage %d" % turn)
        assert works(open_store(folder, max_bytes=4 * MIB))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "cache" + ASIDE]
    assert (tmp_path / ("cache" + ASIDE) / DATA_FILE).read_bytes() == b"damage 2"


def test_a_file_in_the_place_of_the_folder_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("what is this?")
    assert works(open_store(tmp_path / "cache", max_bytes=MIB))


def test_a_store_that_is_larger_than_it_may_be_now_begins_anew(tmp_path: Path) -> None:
    size = len(filled(tmp_path / "cache"))
    assert works(open_store(tmp_path / "cache", max_bytes=size // 2))
    assert (tmp_path / "cache" / DATA_FILE).stat().st_size <= size // 2


def test_a_bound_that_was_raised_keeps_what_there_is(tmp_path: Path) -> None:
    filled(tmp_path / "cache")
    store = open_store(tmp_path / "cache", max_bytes=16 * MIB)
    assert store is not None
    assert store.usage().entries == 2000
    store.close()


def test_without_a_folder_to_write_to_there_is_no_store_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert open_store(tmp_path / "file" / "cache", max_bytes=MIB) is None
    assert "no cached predictions on this node" in caplog.text


def slow_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(opening, "CHECK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(opening, "_CHECK", "import time\ntime.sleep(60)")


def no_more_processes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "no-such-python"))


def somebody_kills_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(opening, "_CHECK", "import os\nos.kill(os.getpid(), 9)")


@pytest.mark.parametrize("trouble", [slow_machine, no_more_processes, somebody_kills_it])
def test_a_store_that_cannot_be_checked_stays_where_others_use_it(
    trouble: Callable[[pytest.MonkeyPatch, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "cache"
    filled(folder)
    with monkeypatch.context() as troubled:
        trouble(troubled, folder)
        assert open_store(folder, max_bytes=4 * MIB) is None
    assert "no cached predictions in this process" in caplog.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]
    store = open_store(folder, max_bytes=4 * MIB)
    assert store is not None
    assert store.usage().entries == 2000
    store.close()


def test_a_store_that_kills_its_reader_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    filled(folder)
    monkeypatch.setattr(opening, "_CHECK", "import os\nos.abort()")
    assert works(open_store(folder, max_bytes=4 * MIB))
    assert (tmp_path / ("cache" + ASIDE) / DATA_FILE).exists()


def test_a_store_that_another_process_began_anew_meanwhile_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    filled(folder)
    inode = opening._inode(folder)
    shutil.move(folder, tmp_path / "elsewhere")  # as the other process does it
    filled(folder)
    opening._set_aside(folder, inode)
    assert (folder / DATA_FILE).exists()
