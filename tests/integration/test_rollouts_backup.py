"""The drill of docs/runbooks/disaster-recovery.md: all state is lost, and what the backup says is served again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from models.registry import Registry
from serving.routing.table import RoutingTable, table_from_json
from tests.event_logs import all_of
from tests.integration.system import BLANK, System, Traffic, eventually

pytestmark = pytest.mark.integration

ROLLOUT = """\
model: digits
version: v2
from: v1
steps: [{setWeight: 100}]
analysis: {minAttempts: 5}
bake: {duration: 1s}
"""


def command(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    done = system.run(*words)
    print(f"$ holdfast {' '.join(words)}\n{done.stdout}{done.stderr}(code {done.returncode})")  # noqa: T201  # if it fails
    return done


def table(system: System) -> RoutingTable:
    (path,) = Path(system.args["state_dir"]).glob("run/*/routing.json")
    return table_from_json(path.read_bytes())


def routes(system: System) -> dict[str, Any]:
    """Of each model the version that answers, and the digests of all that may be asked."""
    return {name: (route.stable, route.versions) for name, route in table(system).models.items()}


def rolled_out(system: System) -> None:
    """v2 takes the place of v1, to the very end, unless it has done so already."""
    if system.stable("digits") == "v2":
        return
    with Traffic(system, "digits") as traffic:
        assert system.ask("POST", "/v2/holdfast/rollouts", {"file": ROLLOUT, "who": "anna"}).status == 201
        eventually(lambda: _report(system)["phase"] == "Succeeded", lambda: str(_report(system)))
        eventually(
            lambda: _report(system)["settled"] and list(table(system).models["digits"].versions) == ["v2"], "v1 is gone"
        )
        traffic.wait_for_more()
        assert traffic.failures() == []


def _report(system: System) -> dict[str, Any]:
    answer = system.ask("GET", "/v2/holdfast/rollouts/digits")
    document: dict[str, Any] = answer.json()
    return document if answer.status == 200 else {"phase": answer.error(), "settled": False}


def test_a_machine_that_is_lost_comes_back_from_its_backup(rolling: System, tmp_path: Path) -> None:
    system, backup = rolling, tmp_path / "backup.tar"
    state = Path(system.args["state_dir"])
    rolled_out(system)
    before = routes(system)
    with Traffic(system, "digits") as traffic:
        made = command(system, "backup", str(backup))
        traffic.wait_for_more()
        assert traffic.failures() == []
    assert made.returncode == 0
    assert command(system, "restore", str(backup), "--force").returncode == 1, "a Holdfast runs there"
    assert system.stop() == 0
    events = all_of(str(state / "events.db"))

    shutil.rmtree(state)
    shutil.rmtree(system.store)
    assert command(system, "doctor").returncode == 1, "there is nothing to serve"

    restored = command(system, "restore", str(backup), "--json")
    assert restored.returncode == 0
    told = json.loads(restored.stdout)
    assert (told["mismatches"], told["aside"]) == (0, [])
    assert told["decisions"] > 0
    kept = all_of(str(state / "events.db"))
    assert kept == events[: len(kept)], "it isn't the same history"
    assert told["log"]["seq"] == kept[-1].seq
    registry = Registry(system.store)
    assert {str(name): registry.verify(*name).digest for name in registry.versions()} == told["versions"]
    assert command(system, "doctor").returncode == 0

    system.start()
    eventually(lambda: _serves(system, "v2"), "v2 answers again", within_s=240.0)
    assert routes(system) == before
    assert _report(system)["phase"] == "Succeeded"
    assert command(system, "replay").returncode == 0


def _serves(system: System, version: str) -> bool:
    try:
        answer = system.infer("digits", BLANK)
    except OSError:
        return False
    return answer.status == 200 and answer.json()["model_version"] == version
