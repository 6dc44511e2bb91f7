"""What the rollout proofs do to an event log is what they say, and it can be undone."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from loadtests.rollouts.logs import _alter, _copied, _put_back, _restored, _tear
from loadtests.rollouts.wal import last_commit
from serving.rollout.event_log import EventLog, LogCorrupt, open_log
from tests.event_logs import all_of, fill


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """Open, as in a control plane that runs."""
    return open_log(str(tmp_path / "events.db"))


def left_behind(log: EventLog, path: Path) -> Path:
    """The files as they are when the control plane is killed."""
    folder = path.parent / "left"
    folder.mkdir()
    _copied(path, folder)
    for suffix in ("", "-wal", ".head"):
        (folder / f"kept{suffix}").rename(folder / f"{path.name}{suffix}")
    log.close()
    return folder / path.name


def test_a_row_in_the_middle_is_altered_named_and_put_back(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    events = fill(log, 30)
    seq, before = _alter(path)
    with pytest.raises(LogCorrupt, match=f"event {seq}: "):
        list(log.read())
    assert 10 < seq < 20
    _put_back(path, seq, before)
    assert list(log.read()) == events
    log.close()


def test_exactly_the_last_event_is_torn_off_and_comes_back(log: EventLog, tmp_path: Path) -> None:
    events = fill(log, 30)
    path = left_behind(log, tmp_path / "events.db")
    keep = tmp_path / "keep"
    keep.mkdir()
    _copied(path, keep)
    _tear(path)
    with pytest.raises(LogCorrupt, match="event 30: missing"):
        all_of(str(path))
    _restored(path, keep)
    assert all_of(str(path)) == events


def test_the_last_commit_is_found_behind_frames_of_an_older_log(tmp_path: Path) -> None:
    """A write-ahead log that was begun anew still has old frames at its end."""
    path = tmp_path / "events.db"
    log = open_log(str(path))
    fill(log, 5)
    raw = (tmp_path / "events.db-wal").read_bytes()
    shutil.copy(tmp_path / "events.db-wal", tmp_path / "kept")
    log.close()
    begin, end = last_commit(raw)
    assert 32 < begin < end == len(raw)
    frame = 24 + struct.unpack_from(">8I", raw)[2]
    older = bytearray(raw[-frame:])
    older[8:16] = b"other ID"
    assert last_commit(raw + bytes(older)) == (begin, end)


def test_a_log_without_a_commit_has_none() -> None:
    assert last_commit(b"") == (0, 0)
    assert last_commit(bytes(20)) == (0, 0)
