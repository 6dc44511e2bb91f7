"""The store: it survives its process, shares its file, stays within its bounds, and begins anew when it is torn."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.incidents.incident import Contents, Facts, KeptTensor
from serving.incidents.store import IncidentStore, Row, StoreUnreadable, Wanted

MB = 1 << 20


def facts(**more: Any) -> Facts:
    given: dict[str, Any] = {
        "wall": 1000.0,
        "model": "m",
        "version": "v1",
        "outcome": "model_failed",
        "failure": "model_failed",
        "fault": "it broke",
        "request_id": "",
        "seconds": 0.1,
        "waited_s": 0.0,
        "attempts": (),
        "answered_by": "",
        "rollout": "",
    }
    return Facts(**{**given, **more})


def row(size: int = 8, **more: Any) -> Row:
    return Row(
        facts(**more), Contents(inputs=(KeptTensor(name="x", datatype="UINT8", shape=(size,), raw=bytes(size)),))
    )


def opened(folder: Path, *, max_bytes: int = 4 * MB, max_number: int = 100) -> IncidentStore:
    return IncidentStore(folder, max_bytes=max_bytes, max_number=max_number)


def ids(store: IncidentStore, **wanted: Any) -> list[int]:
    return [line.id for line in store.page(Wanted(**wanted)).incidents]


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.put_many([row(), row(fault="again")]) == 2
    store.close()
    again = opened(tmp_path)
    assert ids(again) == [2, 1]
    found = again.get(2)
    assert found is not None
    assert (found.fault, found.inputs[0].raw) == ("again", bytes(8))
    assert again.get(3) is None


def test_a_store_that_nobody_has_written_to_is_empty(tmp_path: Path) -> None:
    store = opened(tmp_path / "not yet")
    page = store.page(Wanted())
    assert (page.incidents, page.next, page.kept, page.bytes) == ((), None, 0, page.bytes)
    assert store.get(1) is None
    assert not (tmp_path / "not yet").exists()


def test_a_store_that_is_just_being_made_is_empty_and_not_damaged(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.path.touch()
    assert ids(store) == []
    assert store.get(1) is None
    store.put_many([row()])
    assert ids(store) == [1]


def test_gateways_share_one_file(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.put_many([row()])
    two.put_many([row()])
    one.put_many([row()])
    assert ids(two) == ids(one) == [3, 2, 1]


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "incidents")
    store.put_many([row()])
    assert store.path.stat().st_mode & 0o077 == 0
    assert store.path.parent.stat().st_mode & 0o077 == 0


# Looking


def test_pages_follow_one_another_from_the_newest_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_many([row() for _ in range(5)])
    page = store.page(Wanted(limit=2))
    assert ([line.id for line in page.incidents], page.next, page.kept) == ([5, 4], 4, 5)
    page = store.page(Wanted(limit=2, before=page.next))
    assert ([line.id for line in page.incidents], page.next) == ([3, 2], 2)
    page = store.page(Wanted(limit=2, before=page.next))
    assert ([line.id for line in page.incidents], page.next) == ([1], None)


def test_incidents_are_found_by_what_they_are(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_many(
        [row(), row(model="n"), row(version="v2"), row(outcome="degraded"), row(wall=2000.0, failure="replica_lost")]
    )
    assert ids(store, model="n") == [2]
    assert ids(store, version="v2") == [3]
    assert ids(store, outcome="degraded") == [4]
    assert ids(store, outcome="model_failed") == [5, 4, 3, 2, 1]
    assert ids(store, outcome="replica_lost") == [5]
    assert ids(store, since=1500.0) == [5]
    assert ids(store, model="m' OR 1=1 --") == []


# Bounds


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    store = opened(tmp_path, max_number=3)
    for _ in range(3):
        store.put_many([row(), row()])
    assert ids(store) == [6, 5, 4]
    assert store.usage()[0] == 3


def test_the_file_never_grows_beyond_its_size(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=MB, max_number=10_000)
    for _ in range(60):
        store.put_many([row(50_000), row(100)])
        assert store.path.stat().st_size <= MB
    number, used = store.usage()
    assert used <= MB
    assert number > 15
    assert ids(store)[0] == 120


def test_one_that_would_drive_out_all_others_is_kept_without_its_tensors(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=MB)
    store.put_many([row(), row(MB // 4)])
    found = store.get(2)
    assert found is not None
    assert (found.inputs, found.fault) == ((), "it broke")
    assert ids(store) == [2, 1]


def test_what_was_let_go_is_gone_from_the_file(tmp_path: Path) -> None:
    """It may be what somebody asked in confidence."""
    store = opened(tmp_path, max_number=1)
    secret = KeptTensor(name="x", datatype="UINT8", shape=(9,), raw=b"in secret" * 1000)
    store.put_many([Row(facts(), Contents(inputs=(secret,)))])
    store.put_many([row()])
    store.close()  # and with it goes the write-ahead log
    assert b"in secret" not in store.path.read_bytes()


sizes = st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=4), max_size=25)


@settings(max_examples=20)
@given(sizes, st.integers(1, 12))
def test_whatever_comes_it_holds_the_newest_within_its_bounds(batches: list[list[int]], most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = opened(Path(folder), max_bytes=MB, max_number=most)
        put = 0
        for batch in batches:
            put += store.put_many([row(size) for size in batch])
            assert store.path.stat().st_size <= MB
        found = ids(store)
        assert found == list(range(put, put - len(found), -1))
        assert len(found) <= most
        assert bool(found) == bool(put)
        store.close()


# Damage


def torn(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def scribbled(path: Path) -> None:
    path.write_bytes(b"no database at all, but longer than its header is. " * 100)


def another_format(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize("damage", [torn, scribbled, another_format])
def test_a_damaged_file_is_told_of_moved_aside_and_begun_anew(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path)
    store.put_many([row(20_000) for _ in range(5)])
    store.close()
    damage(store.path)
    again = opened(tmp_path)
    assert again.put_many([row(fault="new")]) == 1
    assert [line.fault for line in again.page(Wanted()).incidents] == ["new"]
    assert "incidents begin anew" in caplog.text
    assert (tmp_path / "incidents.db.damaged").exists()


def test_a_damaged_file_is_refused_to_readers_until_somebody_writes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_many([row(20_000) for _ in range(5)])
    store.close()
    scribbled(store.path)
    with pytest.raises(StoreUnreadable, match="not a database"):
        store.page(Wanted())
    with pytest.raises(StoreUnreadable):
        store.get(1)
    assert store.usage() == (0, 0)
    store.put_many([row()])
    assert ids(store) == [1]


def test_a_gateway_goes_over_to_the_file_that_another_one_has_begun(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.put_many([row()])
    two.put_many([row()])
    for name in ("incidents.db", "incidents.db-wal", "incidents.db-shm"):
        (tmp_path / name).replace(tmp_path / f"{name}.away")
    two.put_many([row(fault="by two")])
    one.put_many([row(fault="by one")])
    assert [line.fault for line in one.page(Wanted()).incidents] == ["by one", "by two"]


def test_who_finds_the_store_in_use_says_so_and_goes_on_with_it_later(tmp_path: Path) -> None:
    """Without reading all of it again each time."""
    store = IncidentStore(tmp_path, max_bytes=MB, max_number=10, busy_s=0.01)
    store.put_many([row()])
    writer = store._writer
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnreadable, match="locked"):
        store.put_many([row()])
    other.execute("ROLLBACK")
    other.close()
    assert store.put_many([row()]) == 1
    assert store._writer is writer
    assert ids(store) == [2, 1]


def test_a_row_that_says_nothing_makes_the_page_an_error_and_no_crash(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_many([row()])
    database = sqlite3.connect(store.path)
    database.execute("UPDATE incidents SET facts = ?", (msgspec.json.encode({"no": "facts"}),))
    database.commit()
    database.close()
    with pytest.raises(StoreUnreadable):
        store.page(Wanted())
