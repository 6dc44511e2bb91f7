"""The folder that a run leaves behind: what was planned, what was done, what was seen, and whether it held."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtests.bench.machine import describe, own_versions
from loadtests.chaos import composed
from loadtests.chaos.schedule import Due
from loadtests.chaos.spec import Scenario
from loadtests.chaos.verdict import Verdict
from loadtests.chaos.verdicts import Performed
from loadtests.resilience.system import ROOT

SAMPLES: Final = "samples.csv"
COMPOSED: Final = "scenario.yaml"
"""The same once more, with nothing left to the seed."""


def started() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(
    folder: Path,
    *,
    scenario: Scenario,
    seed: int,
    started_at: str,
    seconds: float,
    schedule: Sequence[Due],
    performed: Sequence[Performed],
    series: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    notes: Sequence[str],
    protection: str | None,
    command: str,
) -> None:
    """All but the samples, which the users have written already."""
    run = {
        "scenario": _builtins(scenario),
        "seed": seed,
        "started": started_at,
        "seconds": round(seconds, 3),
        "machine": _machine(),
        "versions": _versions(),
        "schedule": [due.described() for due in schedule],
        "verdicts": [verdict._asdict() for verdict in verdicts],
        "notes": list(notes),
        "without": protection,
        "command": command,
        "held": all(verdict.held for verdict in verdicts),
    }
    faults = [
        {
            "at_s": round(one.at_s, 3),
            "until_s": None if one.until_s is None else round(one.until_s, 3),
            "fault": one.name,
            "target": one.target,
            "detail": one.detail,
        }
        for one in performed
    ]
    (folder / COMPOSED).write_text(composed.text(composed.composed(scenario, seed, schedule)))
    for name, document in (("run.json", run), ("faults.json", faults), ("series.json", series)):
        (folder / name).write_text(json.dumps(document, indent=1) + "\n")


def _builtins(scenario: Scenario) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(scenario, enc_hook=float)
    return document


def _machine() -> dict[str, Any]:
    found = describe()
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": found["cpu"],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": found["kernel"],
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    found = own_versions(ROOT)
    for name in ("holdfast", "locust"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
