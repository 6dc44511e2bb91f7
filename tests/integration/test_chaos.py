"""A short scenario from a file, as people run it: the record that it leaves, and that it can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.users.rows import Outcome, parse_rows

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FILE = """
name: short
title: Short
what: A replica is killed; nobody may notice. That a breaker opens is promised, and can't be kept.
load: {rate: 30, seconds: 8, users: {json: 2, binary: 2, sticky: 1}}
calm: 2s
faults:
  - {at: 3s, fault: kill_replica}
must:
  back_within: 60s
  breaker_opens: true
"""


def test_a_scenario_leaves_a_record_and_tells_what_was_broken(zoo_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text(FILE)
    words = ["run", str(file), "--seed", "3", "--out", str(tmp_path / "out"), "--store", str(zoo_store)]
    found = subprocess.run(
        [sys.executable, "-m", "loadtests.chaos", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=420,
    )
    assert found.returncode == 1, found.stdout + found.stderr
    folder = tmp_path / "out" / "short"
    run = json.loads((folder / "run.json").read_text())
    assert [verdict["promise"] for verdict in run["verdicts"] if not verdict["held"]] == ["the breaker opens"]
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
