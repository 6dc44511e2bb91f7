"""Figures of processes on other nodes stand in one folder with those of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.shipped_metrics import SILENT_S, read_metrics, silent, take_metrics

REPLICA = """
import sys
from pathlib import Path
from serving.metrics import *
open_metrics(Path(sys.argv[1]))
process = ProcessMetrics("replica", "m", "v1")
process.began()
metrics = ReplicaMetrics("m", "v1")
metrics.ran(rows=3, seconds=0.002)
metrics.flush()
"""
RENDER = """
import sys
from pathlib import Path
from serving.metrics import *
folder = Path(sys.argv[1])
forget_dead_processes(folder)
sys.stdout.buffer.write(render_metrics(folder))
"""


def of(program: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout


def test_what_was_brought_is_added_to_what_is_here_and_replaces_what_was_brought_before(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    of(REPLICA, here)
    of(REPLICA, there)
    files = read_metrics(there)
    assert files.keys() == {"counter", "gauge_livesum", "histogram"}
    assert all(len(raw) < 8192 for raw in files.values())  # only what is used of each
    for _ in range(2):
        take_metrics(here, "5b21-77aa", files)
    text = of(RENDER, here)
    assert 'holdfast_process_starts_total{kind="replica",model="m",version="v1"} 2.0' in text
    assert 'holdfast_model_batch_rows_sum{model="m",version="v1"} 6.0' in text


def test_of_one_that_has_been_silent_the_gauges_go_and_the_counters_stay(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    of(REPLICA, there)
    for source in ("5b21-dead", "5b21-live"):
        take_metrics(here, source, read_metrics(there))
    long_ago = time.time() - SILENT_S - 1
    for path in here.glob("*_5b21-dead.db"):
        os.utime(path, (long_ago, long_ago))
    text = of(RENDER, here)
    assert 'holdfast_processes{kind="replica",model="m",version="v1"} 1.0' in text
    assert 'holdfast_process_starts_total{kind="replica",model="m",version="v1"} 2.0' in text


@pytest.mark.parametrize("source", ["4711", "a_b", "../a-b", "", "a-b-c", "A-b"])
def test_a_name_that_a_process_here_could_have_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="process on another node"):
        take_metrics(tmp_path, source, {"counter": b"x"})


@pytest.mark.parametrize("kind", ["../counter", "gauge", "gauge_livesum_1", "else"])
def test_a_kind_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no kind of metrics"):
        take_metrics(tmp_path, "a-b", {kind: b"x"})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_metrics_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("x")
    (tmp_path / "else.db").write_bytes(b"\1\0\0\0")
    (tmp_path / "counter_9.db").write_bytes(b"\0\0")
    assert read_metrics(tmp_path) == {}


def test_a_file_that_is_gone_was_not_silent(tmp_path: Path) -> None:
    assert not silent(tmp_path / "gone", now=time.time())
