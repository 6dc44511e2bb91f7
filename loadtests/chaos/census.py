"""Counts the processes of a system and what each of them holds, by kind of process.

Kinds are told by command lines, as Ray and Holdfast name their processes. Not here: judging growth (`flat.py`).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.chaos.flat import Line
from loadtests.resilience.processes import rss_mb

_REPLICA: Final = re.compile(r"ray::ServeReplica:([^:]+):(\w+)")
_OWN: Final = {"Gateway": "gateway", "Control": "control plane", "Haproxy": "HAProxy's keeper"}
_OTHERS: Final = (
    ("ray::ServeController", "Serve controller"),
    ("/raylet/raylet ", "raylet"),
    ("/gcs/gcs_server ", "GCS"),
    ("ray::DashboardAgent", "dashboard agent"),
    ("ray::RuntimeEnvAgent", "runtime env agent"),
    ("/dashboard/dashboard.py ", "dashboard"),
    ("/log_monitor.py ", "log monitor"),
    ("/autoscaler/_private/monitor.py ", "autoscaler"),
    ("/bin/haproxy ", "HAProxy"),
    ("serving.cli up ", "holdfast up"),
)
OTHER: Final = "other"

STAYING: Final = ("gateway", "control plane", "HAProxy", "raylet", "Serve controller")
"""Kinds that must have been seen for long enough, or nothing is said about the system."""


class Held(NamedTuple):
    """What one process holds. Memory is its own: neither files nor what it shares."""

    memory_mb: float
    handles: float
    threads: float


class Counted(NamedTuple):
    at_s: float
    held: Mapping[tuple[str, int], Held]
    """By kind and pid."""


def kind_of(command: str) -> str:
    if (found := _REPLICA.match(command)) is not None:
        application, deployment = found.groups()
        return _OWN.get(deployment, application)
    return next((kind for mark, kind in _OTHERS if mark in f"{command} "), OTHER)


def count(at_s: float, processes: Mapping[int, str]) -> Counted:
    """Of those that are still there."""
    held = {}
    for pid, command in processes.items():
        memory_mb = rss_mb(pid)
        if not math.isnan(memory_mb):
            held[kind_of(command), pid] = Held(memory_mb, _entries(pid, "fd"), _entries(pid, "task"))
    return Counted(at_s, held)


def _entries(pid: int, what: str) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/{what}").iterdir())
    except OSError:
        return 0


def kinds(counted: Iterable[Counted]) -> list[str]:
    return sorted({kind for one in counted for kind, _ in one.held if kind != OTHER})


def lines(counted: Sequence[Counted], kind: str, measure: str) -> list[Line]:
    """A line for each process of the kind, from when it was first seen. `measure` is a field of `Held`."""
    found: dict[int, list[tuple[float, float]]] = {}
    for one in counted:
        for (each, pid), held in one.held.items():
            if each == kind:
                found.setdefault(pid, []).append((one.at_s, float(getattr(held, measure))))
    return list(found.values())


def numbers(counted: Sequence[Counted]) -> Line:
    """How many processes there are in all."""
    return [(one.at_s, float(len(one.held))) for one in counted]


def shown(one: Counted) -> dict[tuple[str, str, str], float]:
    """As series of a record: of each kind the largest of its processes, and how many there are."""
    found: dict[tuple[str, str, str], float] = {}
    for (kind, _), held in one.held.items():
        for name, unit, value in (
            ("memory_by_process", "MB", held.memory_mb),
            ("handles_by_process", "", held.handles),
            ("threads_by_process", "", held.threads),
        ):
            series = (name, kind, unit)
            found[series] = max(found.get(series, 0.0), round(value, 1))
        found["processes", kind, ""] = found.get(("processes", kind, ""), 0.0) + 1
    return found
