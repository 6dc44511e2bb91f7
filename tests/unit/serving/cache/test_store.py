"""The node's store: bounded, shared by processes, and not harmed by one that is killed."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.cache.opening import open_store
from serving.cache.store import DATA_FILE, LmdbStore, Row, full_bytes

OpenLmdb = Callable[..., LmdbStore]

MIB = 1 << 20
ROOT = Path(__file__).parents[4]


def key(number: int) -> bytes:
    return number.to_bytes(32)


def row(number: int, size: int = 200, *, wall: float = 100.0, version: str = "v1") -> Row:
    return Row(key(number), wall, version, number.to_bytes(4) * (size // 4))


def found(store: LmdbStore, number: int) -> bytes | None:
    raw = store.get(key(number))
    return None if raw is None else bytes(raw)


def child(program: str, *args: object) -> subprocess.Popen[str]:
    """Another process of the node."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def test_what_was_put_is_found_also_after_the_store_was_opened_again(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    assert store.put_many([row(1), row(2)], now_wall=100.0) == [row(1), row(2)]
    assert found(store, 1) == row(1).raw
    assert found(store, 3) is None
    store.close()
    again = open_lmdb()
    assert (found(again, 1), found(again, 2)) == (row(1).raw, row(2).raw)
    assert again.usage().entries == 2


def test_a_newer_answer_replaces_the_older_one_of_any_version(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    newer = Row(key(1), 101.0, "v2", b"newer")
    store.put_many([row(1), newer], now_wall=101.0)
    assert found(store, 1) == b"newer"
    assert store.put_many([row(1)], now_wall=101.0) == [], "a writer that comes late"
    assert found(store, 1) == b"newer"
    assert store.usage().entries == 1


def test_an_answer_from_the_future_gives_way_once_the_clock_is_right_again(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    store.put_many([row(1, wall=9000.0)], now_wall=9000.0)
    right = Row(key(1), 101.0, "v1", b"right")
    assert store.put_many([right], now_wall=101.0) == [right]
    assert found(store, 1) == b"right"


def test_the_same_answer_is_not_written_again_and_again(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(rewrite_after_s=0.1)
    store.put_many([row(1)], now_wall=100.0)
    assert store.put_many([row(1, wall=100.05)], now_wall=100.05) == []
    assert len(store.put_many([row(1, wall=100.05, version="v2")], now_wall=100.05)) == 1
    assert len(store.put_many([row(1, wall=100.2, version="v2")], now_wall=100.2)) == 1


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from([0, 40, 900, 1900, 2100, 5000, 30_000])), max_size=30),
    st.integers(1, 40),
)
def test_it_never_grows_beyond_its_bound_and_keeps_the_newest(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], rounds: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = LmdbStore(folder, max_bytes=MIB, rewrite_after_s=0.0)
    try:
        wall = 100.0
        for turn in range(rounds):
            rows = [row(number * 100 + turn, size, wall=wall) for number, size in sizes]
            store.put_many(rows, now_wall=wall)
            wall += 1.0
            assert (folder / DATA_FILE).stat().st_size <= MIB
            if rows:
                assert found(store, int.from_bytes(rows[-1].key)) is not None, "the newest is there"
        assert store.errors == 0
        assert store.usage().bytes <= MIB
    finally:
        store.close()


@pytest.mark.parametrize(("mib", "largest", "batches"), [(1, 3000, 1500), (1, 30_000, 300), (4, 100_000, 300)])
def test_a_full_store_goes_on_taking_answers_of_all_sizes(
    open_lmdb: OpenLmdb, mib: int, largest: int, batches: int
) -> None:
    """LMDB needs free pages even to delete; a store that has used them up would never take anything again."""
    chance = random.Random(3)
    store = open_lmdb(max_bytes=mib * MIB)
    for batch in range(batches):
        rows = [
            row(chance.randrange(1 << 30) if chance.random() < 0.7 else number, int(largest ** chance.random()))
            for number in range(16)
        ]
        store.put_many(rows, now_wall=100.0)
        assert found(store, int.from_bytes(rows[-1].key)) is not None, f"the newest is there after batch {batch}"
    assert store.errors == 0
    assert store.usage().bytes > full_bytes(mib * MIB) // 2, "it didn't begin anew to get there"


def test_the_oldest_go_first(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    for number in range(3000):
        store.put_many([row(number, 800, wall=100.0 + number)], now_wall=100.0 + number)
    here = [number for number in range(3000) if found(store, number) is not None]
    assert here == list(range(here[0], 3000))
    assert 0 < len(here) < 3000
    assert store.usage().entries == len(here)
    assert 0.8 * full_bytes(MIB) < store.usage().bytes <= full_bytes(MIB)
    assert store.evicted == 3000 - len(here)


def test_a_row_that_would_drive_out_the_others_is_not_kept(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    store.put_many([row(1), row(2, MIB // 4), row(3)], now_wall=100.0)
    assert [found(store, number) is not None for number in (1, 2, 3)] == [True, False, True]
    assert store.errors == 1


def test_a_reader_that_holds_on_to_old_pages_makes_the_store_full_and_nothing_worse(
    open_lmdb: OpenLmdb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pages that somebody can still see aren't used again: a process that was stopped while it read."""
    store = open_lmdb()
    store.put_many([row(number) for number in range(100)], now_wall=100.0)
    program = (
        "import lmdb, sys\n"
        "env = lmdb.open(sys.argv[1], max_dbs=2, map_size=1 << 20)\n"
        "with env.begin() as reading: print('reading', flush=True); sys.stdin.readline()\n"
    )
    with child(program, tmp_path / "cache") as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        for number in range(4000):
            store.put_many([row(number)], now_wall=101.0)
        assert store.errors > 0
        assert (tmp_path / "cache" / DATA_FILE).stat().st_size <= MIB
        assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1, "one line, not thousands"
        reader.kill()
    before = store.errors
    assert store.put_many([row(9000)], now_wall=102.0), "the reader is dead: its pages are free"
    assert store.errors == before


@pytest.mark.parametrize("length", [0, 31, 47])
def test_a_row_that_was_cut_short_is_replaced_and_evicted_as_any_other(open_lmdb: OpenLmdb, length: int) -> None:
    store = open_lmdb()
    store.put_many([row(1), row(2)], now_wall=100.0)
    with store._env.begin(write=True) as txn:
        for place, raw in list(txn.cursor(store._rows)):
            txn.put(place, raw[:length], db=store._rows)
    assert not found(store, 1)
    assert store.put_many([row(1)], now_wall=100.0) == [row(1)]
    assert found(store, 1) == row(1).raw
    for number in range(3, 3000):
        store.put_many([row(number, 800)], now_wall=100.0)
    assert found(store, 2) is None
    assert store.errors == 0


def test_two_processes_share_one_store(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    store = open_lmdb(max_bytes=8 * MIB)
    program = (
        "import sys; from pathlib import Path; from serving.cache.store import LmdbStore, Row\n"
        "store = LmdbStore(Path(sys.argv[1]), max_bytes=8 << 20)\n"
        "print(bytes(store.get((1).to_bytes(32))) == b'mine', flush=True)\n"
        "for n in range(1000, 2000): store.put_many([Row(n.to_bytes(32), 100.0, 'v1', b'theirs')], now_wall=100.0)\n"
        "print(store.errors, flush=True)\n"
    )
    store.put_many([Row(key(1), 100.0, "v1", b"mine")], now_wall=100.0)
    with child(program, tmp_path / "cache") as other:
        for number in range(2000, 3000):
            store.put_many([Row(key(number), 100.0, "v1", b"mine")], now_wall=100.0)
        assert other.stdout is not None
        assert other.stdout.read().split() == ["True", "0"]
    assert store.errors == 0
    assert store.usage().entries == 2001
    assert found(store, 1999) == b"theirs"
    assert found(store, 2000) == b"mine"


def test_killing_the_writer_at_any_moment_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    program = (
        "import sys; from pathlib import Path; from serving.cache.store import LmdbStore, Row\n"
        "store = LmdbStore(Path(sys.argv[1]), max_bytes=1 << 20, rewrite_after_s=0.0)\n"
        "n = int(sys.argv[2])\n"
        "while True:\n"
        "    rows = [Row(k.to_bytes(32), 100.0, 'v1', k.to_bytes(4) * 50) for k in range(n, n + 20)]\n"
        "    store.put_many(rows, now_wall=100.0); n += 20\n"
        "    print(n - 1, flush=True)\n"
    )
    last = 0
    for kill in range(8):
        with child(program, folder, last + 1) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 37 * kill):  # from before the store is full to long after
                last = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            last = max([last, *map(int, writer.stdout.read().split("\n")[:-1])])
        store = open_store(folder, max_bytes=MIB)
        assert store is not None
        assert found(store, last) == last.to_bytes(4) * 50
        assert store.put_many([row(last + 1)], now_wall=101.0), "it can be written to"
        last += 1
        store.close()
    assert caplog.records == [], "nothing was damaged"


def test_a_full_disk_is_counted_and_survived(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    """Files that may not grow any more stand for it: the kernel refuses the same write."""
    program = (
        "import resource, sys; from pathlib import Path; from serving.cache.store import LmdbStore, Row\n"
        "store = LmdbStore(Path(sys.argv[1]), max_bytes=8 << 20)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "def put(numbers): return sum(\n"
        "    len(store.put_many([Row(n.to_bytes(32), 100.0, 'v1', bytes(2000))], now_wall=100.0)) for n in numbers)\n"
        "put([1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))\n"
        "written = put(range(2, 1000))\n"
        "print(written < 998, store.errors == 998 - written, store.get((1).to_bytes(32)) is not None)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
        "print(put(range(2000, 2100)))\n"
    )
    with child(program, tmp_path / "cache") as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == ["True", "True", "True", "100"]
    assert process.returncode == 0


def test_a_question_to_a_closed_store_is_a_miss(open_lmdb: OpenLmdb) -> None:
    store = open_lmdb()
    store.put_many([row(1)], now_wall=100.0)
    store.close()
    assert found(store, 1) is None
    assert store.put_many([row(2)], now_wall=100.0) == []
    assert store.usage().entries == 0


def test_only_its_owner_may_read_what_is_cached(open_lmdb: OpenLmdb, tmp_path: Path) -> None:
    open_lmdb()
    assert oct((tmp_path / "cache").stat().st_mode & 0o777) == "0o700"
    assert oct((tmp_path / "cache" / DATA_FILE).stat().st_mode & 0o777) == "0o600"
