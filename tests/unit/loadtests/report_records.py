"""Records of runs that never were, from a seed: calm, an outage, recovery. For the tests of the report."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

COLUMNS = ("due_s", "sent_s", "done_s", "user", "model", "status", "outcome", "version", "degraded")


def run_json(**changes: Any) -> dict[str, Any]:
    """What the runner writes about a run that held."""
    run = {
        "scenario": {
            "name": "primary-slow",
            "title": "All primary replicas killed, then slow",
            "what": "Steady load of 120 requests a second on two models while all replicas of the stable version are "
            "killed at once, and the new ones answer ten times as slowly for a while.",
        },
        "seed": 7,
        "started": "2030-01-01T12:00:00Z",
        "seconds": 60,
        "machine": {"cpus": 2, "cpu": "Abacus 9 @ 2.10 GHz", "memory_gib": 7.8, "kernel": "6.1.0", "python": "3.11.9"},
        "versions": {"holdfast": "0.1.0", "commit": "16cf042", "ray": "2.60.0", "onnxruntime": "1.31.0"},
        "verdicts": [
            {"promise": "0 client errors", "held": True, "seen": "0 of 7200"},
            {"promise": "0 wrong answers unmarked", "held": True, "seen": "0 of 7200"},
            {"promise": "back to normal within 12 s of a fault", "held": True, "seen": "8.4 s at the most"},
            {"promise": "p99 in calm below 50 ms", "held": True, "seen": "24 ms"},
        ],
        "held": True,
    }
    return run | changes


FAULTS: list[dict[str, Any]] = [
    {
        "at_s": 15.0,
        "until_s": None,
        "fault": "kill_replica",
        "target": "digits@v1",
        "detail": "all 3 replicas, SIGKILL",
    },
    {"at_s": 17.0, "until_s": 26.0, "fault": "slow", "target": "digits@v1", "detail": "10x"},
    {"at_s": 38.0, "until_s": None, "fault": "kill_gateway", "target": "gateway 1", "detail": "SIGKILL"},
]


def write(folder: Path, *, seed: int = 7, rate: int = 120, failing: bool = False, **changes: Any) -> Path:
    """The record of a run with an outage from second 15 on. A failing one has errors and wrong answers as well."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if failing:
        bad = [
            {"promise": "0 client errors", "held": False, "seen": "41 of 7200"},
            {"promise": "0 wrong answers unmarked", "held": False, "seen": "3 of 7200"},
        ]
        changes = {"held": False, "verdicts": bad + run_json()["verdicts"][2:]} | changes
    run = run_json(**changes)
    seconds = float(run["seconds"])
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "faults.json").write_text(json.dumps([fault for fault in FAULTS if fault["at_s"] < seconds]))
    (folder / "series.json").write_text(json.dumps(series(seconds, chance)))
    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(int(seconds * rate)):
            writer.writerow(sample(number / rate, chance, failing=failing))
    return folder


def trouble(at: float) -> float:
    """How bad things are, from 0 to 1."""
    if 15 <= at < 26:
        return 1.0 if at < 19 else 0.7
    if 26 <= at < 29:
        return (29 - at) / 6
    return 0.5 if 38 <= at < 38.6 else 0.0


def sample(due: float, chance: random.Random, *, failing: bool) -> tuple[object, ...]:
    bad = trouble(due)
    latency = math.exp(chance.gauss(math.log(0.008), 0.35)) * (1 + 30 * bad * chance.random() ** 3)
    outcome, version, status = "ok", "v1", 200
    draw = chance.random()
    if draw < 0.75 * bad:
        outcome, version, latency = "degraded", "fallback", latency * 0.7
    elif draw < 0.85 * bad:
        outcome, version, status, latency = "shed", "", 503, 0.002
    elif draw > 0.997:
        outcome, version, status = "cancelled", "", 0
    elif failing and bad and draw > 0.95:
        outcome, version, status, latency = "error", "", 502, 0.9 + chance.random()
    elif failing and bad == 1 and draw > 0.943:
        outcome = "wrong"
    model = "digits" if chance.random() < 0.8 else "orientation"
    if model == "orientation" and version == "v1":
        version = "v3"
    done = f"{due + latency:.5f}"
    row = (f"{due:.5f}", f"{due + 0.0002:.5f}", done, chance.randrange(20), model, status, outcome, version)
    return (*row, int(outcome == "degraded"))


def series(seconds: float, chance: random.Random) -> dict[str, Any]:
    times = [number / 2 for number in range(int(seconds * 2) + 1)]

    def breaker(at: float) -> int | None:
        if 38 <= at < 38.5:
            return None
        return 2 if 15.5 <= at < 26 else 1 if 26 <= at < 28 else 0

    def made(name: str, label: str, unit: str, values: list[Any]) -> dict[str, Any]:
        return {"name": name, "label": label, "unit": unit, "values": values}

    return {
        "t_s": times,
        "series": [
            made("breaker", "digits@v1", "", [breaker(at) for at in times]),
            made("breaker", "digits@v2", "", [0 for _ in times]),
            made("breaker", "orientation@v3", "", [2 if 20 <= at < 20.5 else 0 for at in times]),
            made("canary_weight", "digits@v2", "%", [min(50, 5 * int(at // 10)) if at < 38 else 0 for at in times]),
            made("admission_limit", "limit", "", [max(12, 48 - int(36 * trouble(at))) for at in times]),
            made("in_flight", "in flight", "", [chance.randrange(1, 4) + int(10 * trouble(at)) for at in times]),
            made("replicas_alive", "digits@v1", "", [0 if 15 <= at < 17 else 2 if at < 20 else 3 for at in times]),
            made("memory", "gateway 1", "MiB", [142 + at / 40 + chance.random() for at in times]),
            made("memory", "gateway 2", "MiB", [139 + at / 50 + chance.random() for at in times]),
        ],
    }
