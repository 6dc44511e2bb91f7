"""Counts on a disk that has no room: the process goes on, and is seen again when there is some."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from serving.metrics_file import FIRST_BYTES, TRY_AGAIN_S, AllocatedDict
from tests.unit.serving.test_metrics import GATEWAY, run_in


class Disk:
    """How much the disk takes, and what it was asked for."""

    def __init__(self) -> None:
        self.full = False
        self.asked: list[int] = []
        self.now = 100.0

    def allocate(self, descriptor: int, offset: int, size: int) -> None:
        self.asked.append(size)
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    allocate = os.posix_fallocate

    def both(descriptor: int, offset: int, size: int) -> None:
        disk.allocate(descriptor, offset, size)
        allocate(descriptor, offset, size)

    monkeypatch.setattr("serving.metrics_file.os.posix_fallocate", both)
    monkeypatch.setattr("serving.metrics_file.time.monotonic", lambda: disk.now)
    return disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter_1.db"


def counts(path: Path) -> dict[str, float]:
    found = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
    return {key: value for key, value, *_ in found}


def test_every_byte_of_a_file_is_on_the_disk_before_it_is_written(path: Path) -> None:
    there = AllocatedDict(str(path))
    there.write_value("a", 1.0, 0.0)
    status = path.stat()
    assert status.st_size == FIRST_BYTES
    assert status.st_blocks * 512 >= FIRST_BYTES  # no holes
    assert counts(path) == {"a": 1.0}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_grows_keeps_what_it_has_and_is_whole_again(path: Path, disk: Disk) -> None:
    there = AllocatedDict(str(path))
    names = [f"{number:04}" + "x" * 200 for number in range(600)]
    for number, name in enumerate(names):
        there.write_value(name, float(number), 0.0)
    assert disk.asked == [FIRST_BYTES, 2 * FIRST_BYTES, 4 * FIRST_BYTES]
    assert path.stat().st_blocks * 512 >= path.stat().st_size == 4 * FIRST_BYTES
    assert counts(path) == {name: float(number) for number, name in enumerate(names)}


def test_one_entry_may_be_larger_than_all_there_is(path: Path) -> None:
    name = "x" * (3 * FIRST_BYTES)
    AllocatedDict(str(path)).write_value(name, 1.0, 0.0)
    assert counts(path) == {name: 1.0}


def test_on_a_full_disk_counting_goes_on_and_is_seen_once_there_is_room(path: Path, disk: Disk) -> None:
    disk.full = True
    there = AllocatedDict(str(path))
    for value in (1.0, 2.0):
        there.write_value("a", value, 0.0)
    assert there.read_value("a") == (2.0, 0.0)  # type: ignore[no-untyped-call]
    assert list(path.parent.iterdir()) == []
    assert len(disk.asked) == 1, "not at every count"
    disk.full = False
    disk.now += TRY_AGAIN_S
    there.write_value("a", 3.0, 0.0)
    assert counts(path) == {"a": 3.0}
    there.write_value("a", 4.0, 0.0)
    assert counts(path) == {"a": 4.0}


def test_a_file_that_cannot_grow_stays_as_it_was(path: Path, disk: Disk) -> None:
    there = AllocatedDict(str(path))
    there.write_value("a", 1.0, 0.0)
    disk.full = True
    there.write_value("x" * FIRST_BYTES, 1.0, 0.0)
    there.write_value("a", 2.0, 0.0)
    assert counts(path) == {"a": 1.0}
    disk.full = False
    disk.now += TRY_AGAIN_S
    there.write_value("a", 3.0, 0.0)
    assert counts(path) == {"a": 3.0, "x" * FIRST_BYTES: 1.0}


def test_counts_of_an_earlier_process_of_the_same_number_go_on(path: Path) -> None:
    AllocatedDict(str(path)).write_value("a", 5.0, 0.0)
    there = AllocatedDict(str(path))
    assert there.read_value("a") == (5.0, 0.0)  # type: ignore[no-untyped-call]
    there.write_value("b", 1.0, 0.0)
    assert counts(path) == {"a": 5.0, "b": 1.0}


def test_a_folder_that_is_gone_is_no_reason_to_end(path: Path) -> None:
    there = AllocatedDict(str(path.parent / "gone" / path.name))
    there.write_value("a", 1.0, 0.0)
    assert there.read_value("a") == (1.0, 0.0)  # type: ignore[no-untyped-call]


def test_all_that_a_process_counts_goes_to_such_files(tmp_path: Path) -> None:
    run_in(tmp_path, GATEWAY, "7")
    files = list(tmp_path.glob("*.db"))
    assert {path.name.split("_")[0] for path in files} == {"counter", "gauge", "histogram"}
    for path in files:
        assert path.stat().st_blocks * 512 >= path.stat().st_size
