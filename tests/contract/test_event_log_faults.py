"""What befalls the places where event logs lie: kills, full disks, damaged files, servers that are gone or silent."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.rollout.event_log import Event, EventLog, LogCorrupt, LogError, LogUnavailable, open_log
from serving.rollout.log_chain import ChainedLog
from serving.rollout.log_postgres import TIMEOUT_S, PostgresStore
from serving.rollout.log_sqlite import SqliteStore
from tests.event_logs import Place, PostgresPlace, SqlitePlace, all_of, fill
from tests.postgres_server import PostgresServer, until
from tests.redis_server import free_port

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration

WRITER = """
import sys
from serving.rollout.event_log import open_log
log = open_log(sys.argv[1])
while True:
    event = log.append("written", b"x" * 1000, wall=0.0)
    print(event.seq, event.hash, flush=True)
"""


def test_whatever_was_appended_survives_the_writer(place: Place) -> None:
    """It is killed at a random moment, again and again, and the next one goes on."""
    chance = random.Random(7)
    promised: list[list[str]] = []
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, place.url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        promised += [writer.stdout.readline().split() for _ in range(chance.randrange(1, 60))]
        time.sleep(chance.uniform(0.0, 0.004))  # so that the kill falls anywhere inside an append
        writer.kill()
        promised += [line.split() for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        events = {str(event.seq): event.hash for event in all_of(place.url)}
        assert all(events.get(seq) == digest for seq, digest in promised)
        assert len(events) <= len(promised) + 8, "an append that didn't return may be there, but only one for each kill"


# SQLite.


FILLER = """
import resource, sys
from serving.rollout.event_log import LogUnavailable, open_log
log, failures, kept = open_log(sys.argv[1]), 0, 0
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
while failures < 3:
    try:
        log.append("large", b"x" * 5000, wall=0.0)
        kept += 1
    except LogUnavailable as error:
        failures += 1
        print(error.reason, file=sys.stderr)
print(kept, len(list(log.read())))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(log.append("large", b"x" * 5000, wall=0.0).seq, log.append("after", b"", wall=0.0).seq)
"""


def test_a_full_disk_is_named_and_what_doesnt_fit_isnt_there_by_half(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    result = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    kept, read, retried, after = map(int, result.stdout.split())
    assert kept > 10
    assert (read, retried, after) == (kept, kept + 1, kept + 2)
    assert result.stderr.count(str(path)) == 3
    assert [event.seq for event in all_of(str(path))] == list(range(1, kept + 3))


class Image:
    """A log's files as a crash leaves them: part in the database, part in the write-ahead log."""

    def __init__(self, folder: Path) -> None:
        log = open_log(str(folder / "events.db"))
        self.events = fill(log, 30)
        log.snapshot(10, b"ten")
        log.close()
        log = open_log(str(folder / "events.db"))
        self.events += fill(log, 30)
        self._kept = folder / "kept"
        self._kept.mkdir()
        for name in ("events.db", "events.db-wal", "events.db.head"):
            shutil.copy(folder / name, self._kept / name)
        log.close()
        self._folder = folder

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        shutil.copytree(self._kept, self._folder / "copy")
        try:
            yield self._folder / "copy" / "events.db"
        finally:
            shutil.rmtree(self._folder / "copy")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


def found(path: Path, events: list[Event]) -> LogError | None:
    """What is said about a log whose files were damaged. What is read until then has to be true."""
    read: list[Event] = []
    try:
        log = open_log(str(path))
        try:
            for event in log.read():
                read.append(event)  # noqa: PERF402  # what was read before an error counts
            log.latest_snapshot()
        finally:
            log.close()
    except LogError as error:
        assert read == events[: len(read)]
        return error
    assert read == events
    return None


def test_a_crash_leaves_a_whole_log(image: Image) -> None:
    with image.copy() as path:
        assert found(path, image.events) is None


def test_half_a_commit_at_the_end_is_as_if_it_had_never_been(image: Image) -> None:
    with image.copy() as path:
        with path.with_name("events.db-wal").open("ab") as file:
            file.write(random.Random(1).randbytes(7000))
        assert found(path, image.events) is None


def test_an_end_that_was_cut_off_is_missed_wherever_the_cut_is(image: Image) -> None:
    with image.copy() as path:
        size = path.with_name("events.db-wal").stat().st_size
    chance = random.Random(2)
    for kept in [0, 1, 31, 32, size - 1, *(chance.randrange(size) for _ in range(20))]:
        with image.copy() as path:
            os.truncate(path.with_name("events.db-wal"), kept)
            error = found(path, image.events)
            assert isinstance(error, LogCorrupt), f"cut at {kept} of {size} bytes: {error!r}"
            assert error.seq > 30, f"cut at {kept} of {size} bytes: {error!r}"


@pytest.mark.parametrize("name", ["events.db", "events.db-wal"])
def test_damaged_files_are_named_and_never_read_as_something_else(image: Image, name: str) -> None:
    """Wherever bytes were changed: the log is read as it was, or is said to be corrupt."""
    chance = random.Random(3)
    verdicts: list[LogError | None] = []
    for _ in range(60):
        with image.copy() as path:
            damaged = path.with_name(name)
            raw = bytearray(damaged.read_bytes())
            start = chance.randrange(len(raw))
            length = chance.choice([1, 16, 512, 4096])
            length = min(length, len(raw) - start)
            raw[start : start + length] = bytes(length) if chance.random() < 0.5 else chance.randbytes(length)
            damaged.write_bytes(raw)
            verdicts.append(found(path, image.events))
    assert all(isinstance(error, LogCorrupt | LogUnavailable) for error in verdicts if error)
    assert sum(isinstance(error, LogCorrupt) for error in verdicts) >= 10, "the damage was done where nothing lies"


def test_a_database_that_was_cut_short_is_named(image: Image) -> None:
    chance = random.Random(4)
    with image.copy() as path:
        size = path.stat().st_size
    for kept in [0, 1, 4096, size - 1, *(chance.randrange(size) for _ in range(10))]:
        with image.copy() as path:
            path.with_name("events.db-wal").unlink()
            os.truncate(path, kept)
            assert isinstance(found(path, image.events), LogCorrupt), f"cut at {kept} of {size} bytes"


def test_a_database_that_vanished_isnt_begun_anew(image: Image) -> None:
    with image.copy() as path:
        path.unlink()
        path.with_name("events.db-wal").unlink()
        assert isinstance(found(path, image.events), LogCorrupt)
        assert sqlite3.connect(path).execute("SELECT * FROM sqlite_schema").fetchall() == []


def test_an_end_that_is_deleted_while_the_log_is_open_is_missed(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "events.db")
    log = open_log(place.url)
    fill(log, 6)
    place.sql("DELETE FROM holdfast_events WHERE seq > 4")
    for ask in (log.head, lambda: list(log.read())):
        with pytest.raises(LogCorrupt, match="event 5: missing"):
            ask()
    log.close()


def test_all_events_before_a_damaged_page_are_read_and_the_first_behind_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = open_log(str(path))
    for _ in range(250):
        log.append("large", bytes(1000), wall=0.0)
    log.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4096 * 3 // 4 * 4096)
        file.write(bytes(4096))
    count = 0
    log = open_log(str(path))
    with pytest.raises(LogCorrupt) as caught:  # noqa: PT012  # it comes while reading
        for _ in log.read():
            count += 1
    log.close()
    assert 150 < count < 199, "not only the pages of a hundred rows"
    assert caught.value.seq == count + 1


def test_a_lost_or_garbled_note_of_the_head_harms_nothing(image: Image) -> None:
    with image.copy() as path:
        path.with_name("events.db.head").unlink()
        assert found(path, image.events) is None
    with image.copy() as path:
        path.with_name("events.db.head").write_bytes(b"garbage")
        assert found(path, image.events) is None


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)
    with pytest.raises(LogCorrupt, match="not a database"):
        open_log(str(path))
    assert path.read_text() == "remember the milk\n" * 100


def test_a_path_that_cant_be_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "events.db"):
        with pytest.raises(LogUnavailable, match=str(path)):
            open_log(str(path))


def test_urls_of_sqlite_name_absolute_paths(tmp_path: Path) -> None:
    log = open_log(f"sqlite://{tmp_path}/a%20log.db")
    events = fill(log, 1)
    log.close()
    assert all_of(str(tmp_path / "a log.db")) == events
    for url in ("sqlite://relative.db", "mysql://host/db", "sqlite://"):
        with pytest.raises(ValueError, match="an event log is a path"):
            open_log(url)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_database_that_somebody_holds_is_unavailable_not_a_hang(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "events.db"
    log = ChainedLog(SqliteStore(path, busy_s=0.1))
    fill(log, 1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute(statement)
    with pytest.raises(LogUnavailable, match="locked"):
        log.append("waiting", b"", wall=0.0)
    holder.execute("ROLLBACK")
    assert log.append("waiting", b"", wall=0.0).seq == 2
    holder.close()
    log.close()


def test_a_writer_that_stopped_in_its_turn_keeps_others_out_for_a_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    stopped, log = SqliteStore(path), ChainedLog(SqliteStore(path, busy_s=0.1))
    with stopped._turn(), pytest.raises(LogUnavailable, match=r"held it for 0\.1 s"):
        log.append("waiting", b"", wall=0.0)
    assert log.append("waiting", b"", wall=0.0).seq == 1
    stopped.close()
    log.close()


def test_every_commit_to_sqlite_is_synced(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "events.db")
    assert store.run(lambda query: query("PRAGMA synchronous") + query("PRAGMA journal_mode")) == [(2,), ("wal",)]
    store.close()


# PostgreSQL.


def retried(log: EventLog, payload: bytes, *, meanwhile: Callable[[], None]) -> tuple[Event, int]:
    """Append as a controller does: again until it is in. Also how often it wasn't."""
    failures = 0
    for _ in range(100):
        try:
            return log.append("kept", payload, wall=float(failures)), failures
        except LogUnavailable:
            failures += 1
            meanwhile()
    raise AssertionError("it never came back")


def test_a_server_that_is_gone_and_comes_back_costs_no_event_and_doubles_none(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    log = open_log(place.url)
    chance = random.Random(5)
    events: list[Event] = []
    for round_ in range(2):
        events += fill(log, chance.randrange(1, 15))
        postgres.kill()
        started = time.monotonic()
        event, failures = retried(log, b"%d" % round_, meanwhile=postgres.start)
        assert failures == 1
        assert time.monotonic() - started < 2 * TIMEOUT_S + 10
        events.append(event)
    assert list(log.read()) == events
    log.close()


SERVED_WRITER = """
import sys
from serving.rollout.event_log import LogUnavailable, open_log
log, number = open_log(sys.argv[1]), 0
print("open", flush=True)
while number < 400:
    try:
        event = log.append("written", b"%d" % number, wall=0.0)
    except LogUnavailable:
        print("gone", flush=True)
        continue
    print(event.seq, flush=True)
    number += 1
"""


def test_a_server_that_dies_while_it_is_written_to_costs_nothing_either(postgres: PostgresServer) -> None:
    """The kill may fall between a commit and its answer; repeating the append settles what nobody knows."""
    place = PostgresPlace(postgres)
    writer = subprocess.Popen(
        [sys.executable, "-c", SERVED_WRITER, place.url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    gone = 0
    for line in writer.stdout:
        if line.strip().isdigit() and int(line) in (50, 150, 250, 350):
            postgres.kill()
            postgres.start()
        gone += line == "gone\n"
    writer.stdout.close()
    assert writer.wait(60) == 0
    assert gone > 0
    assert [event.payload for event in all_of(place.url)] == [b"%d" % number for number in range(400)]


def test_a_frozen_server_is_unavailable_and_what_it_does_later_is_settled(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    open_log(place.url).close()
    log = ChainedLog(PostgresStore(place.url, timeout_s=1.0))
    events = fill(log, 2)
    postgres.freeze()
    asked: list[Callable[[], object]] = [lambda: log.append("frozen", b"1", wall=1.0), log.head]
    for ask in asked:  # the first with a connection, the second without one
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            ask()
        assert time.monotonic() - started < 5.0
    postgres.thaw()
    events.append(log.append("frozen", b"1", wall=2.0))
    events.append(log.append("after", b"", wall=3.0))
    assert list(log.read()) == events
    log.close()


def test_a_connection_that_was_lost_meanwhile_is_replaced_without_a_word(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    log = open_log(place.url)
    events = fill(log, 1)
    for _ in range(2):
        place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast event log'"
        )
        events += fill(log, 1)
    assert list(log.read()) == events
    log.close()


def test_a_writer_that_hangs_in_its_turn_keeps_others_out_for_a_bounded_time(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    log = open_log(place.url)
    with postgres.connect() as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [0x486F6C6466617374])
        with pytest.raises(LogUnavailable, match="lock timeout"):
            log.append("waiting", b"", wall=0.0)
    assert log.append("waiting", b"", wall=0.0).seq == 1
    log.close()


def test_a_server_that_cant_be_reached_is_named_without_the_password() -> None:
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1.*refused") as caught:
        open_log(f"postgresql://somebody:hunter2@127.0.0.1:{free_port()}/holdfast")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="URL of the event log") as bad:
        open_log("postgresql://somebody:hunter2@host/db?nonsense")
    assert "hunter2" not in str(bad.value)


def test_a_server_that_doesnt_sync_is_refused(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    open_log(place.url).close()
    place.sql("ALTER SYSTEM SET fsync = off")
    place.sql("SELECT pg_reload_conf()")
    try:
        until(lambda: place.sql("SHOW fsync") == [("off",)])
        with pytest.raises(LogUnavailable, match="fsync off"):
            open_log(place.url)
    finally:
        place.sql("ALTER SYSTEM RESET fsync")
        postgres.kill()


def test_commits_are_synchronous_whatever_the_url_says(postgres: PostgresServer) -> None:
    store = PostgresStore(f"{PostgresPlace(postgres).url}%20-csynchronous_commit%3Doff")
    assert store.run(lambda query: query("SHOW synchronous_commit")) == [("on",)]
    store.close()


def test_a_time_survives_a_server_that_rounds_what_it_prints(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    log = open_log(f"{place.url}%20-cextra_float_digits%3D-10")
    events = fill(log, 9)
    assert list(log.read()) == events
    log.close()


def test_a_standby_is_unavailable_for_writing(postgres: PostgresServer) -> None:
    place = PostgresPlace(postgres)
    open_log(place.url).close()
    log = open_log(f"{place.url}%20-cdefault_transaction_read_only%3Don")
    assert list(log.read()) == []
    with pytest.raises(LogUnavailable, match="read-only"):
        log.append("refused", b"", wall=0.0)
    log.close()
