"""The short set of chaos that is always played: a kill with one promise too many, drawn faults, a bad canary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.chaos import library
from loadtests.users.rows import Outcome, parse_rows

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
KILL = """
name: kill
title: A replica is killed
what: Nobody may notice. That a breaker opens is promised, and can't be kept.
system: {stable: v1}  # as for the canary, so that all three are played on one system
load: {rate: 30, seconds: 8, users: {json: 2, binary: 2, sticky: 1}}
calm: 2s
faults:
  - {at: 3s, fault: kill_replica}
must:
  back_within: 60s
  breaker_opens: true
"""
DRAWN = """
name: drawn
title: Faults that a seed composes
what: Nobody may notice.
system: {stable: v1}
load: {rate: 30, seconds: 8, users: {json: 2, binary: 2, sticky: 1}}
calm: 2s
draw: {at: 2s, every: 2s, until: 6s, faults: [{fault: nan, rate: 0.5, lasts: 1s}, {fault: cut, lasts: 1s}]}
"""
CANARY = """
name: canary
title: A canary that fails
what: It is taken back.
system: {stable: v1}
load: {rate: 60, seconds: 15, users: {json: 2, binary: 2, sticky: 1}}
calm: 2s
rollout: {version: fails-30, at: 2s, steps: [25, 100], pause: 5s}
must:
  ends_as: RolledBack
"""


def played(store: Path, *words: str, within_s: float = 420) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtests.chaos", *words, "--store", str(store)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=within_s,
    )


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def broken_promises(folder: Path) -> list[str]:
    return [verdict["promise"] for verdict in record(folder)["verdicts"] if not verdict["held"]]


def test_scenarios_leave_records_and_tell_what_was_broken(zoo_store: Path, tmp_path: Path) -> None:
    files = {"kill": KILL, "drawn": DRAWN, "canary": CANARY}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    only = ",".join(str(tmp_path / f"{name}.yaml") for name in files)
    out = tmp_path / "out"
    found = played(zoo_store, "all", "--only", only, "--seed", "3", "--out", str(out), within_s=600)
    assert found.returncode == 1, found.stdout + found.stderr
    assert {name: broken_promises(out / name) for name in files} == {
        "kill": ["the breaker opens"],
        "drawn": [],
        "canary": [],
    }, found.stdout
    _told_of_the_kill(out / "kill")
    _can_be_played_again(out / "drawn")


def _told_of_the_kill(folder: Path) -> None:
    run = record(folder)
    assert run["seed"] == 3
    assert not run["held"]
    [fault] = json.loads((folder / "faults.json").read_text())
    assert fault["fault"] == "kill_replica"
    assert fault["at_s"] == pytest.approx(run["schedule"][0]["at_s"], abs=1.0)
    rows = parse_rows((folder / "samples.csv").read_text().splitlines()[1:])
    assert len(rows) == pytest.approx(240, abs=2)
    assert {row.outcome for row in rows} <= {Outcome.OK, Outcome.DEGRADED}
    series = json.loads((folder / "series.json").read_text())
    assert {"breaker", "replicas", "gateway_memory"} <= {each["name"] for each in series["series"]}
    assert all(len(each["values"]) == len(series["t_s"]) for each in series["series"])


def _can_be_played_again(folder: Path) -> None:
    kept = library.load(str(folder / "scenario.yaml"))
    assert [float(fault.at) for fault in kept.faults] == [due["at_s"] for due in record(folder)["schedule"]]
