"""Reads the folder that a run leaves behind.

Of the four files only `run.json` has to be there: a run that was cut short has a report as well, which shows what
there is and says what is missing. A row that can't be read is counted and left out; the last one of a killed run is
often half.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.report.errors import RecordError

RUN, SAMPLES, FAULTS, SERIES = "run.json", "samples.csv", "faults.json", "series.json"
OUTCOMES = ("ok", "degraded", "shed", "cancelled", "error", "wrong")
"""In the order in which they are stacked and listed: the worst on top."""
_FIELD_MAX = 1 << 20


class Sample(NamedTuple):
    """One request. Times are seconds since the run began; `done_s` is NaN if it never ended."""

    due_s: float
    done_s: float
    outcome: str
    model: str
    version: str

    @property
    def latency_ms(self) -> float:
        return (self.done_s - self.due_s) * 1000


@dataclass(frozen=True)
class Verdict:
    promise: str
    held: bool
    seen: str


@dataclass(frozen=True)
class Fault:
    """What was really done. Without `until_s` it happened at a moment."""

    at_s: float
    until_s: float | None
    name: str
    target: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Series:
    """Something watched: a value for each moment of `times`, NaN where it couldn't be had."""

    name: str
    label: str
    unit: str
    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Record:
    folder: str
    scenario: dict[str, Any]
    seed: str
    started: str
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, Any]
    verdicts: Sequence[Verdict]
    held: bool
    command: str = ""
    samples: Sequence[Sample] = ()
    faults: Sequence[Fault] = ()
    series: Sequence[Series] = ()
    missing: Sequence[str] = field(default=())
    """What a reader has to know is not there."""

    @property
    def name(self) -> str:
        return str(self.scenario.get("name") or Path(self.folder).name or "run")

    @property
    def title(self) -> str:
        return str(self.scenario.get("title") or self.name)


def read(folder: Path) -> Record:
    """Raises RecordError if there is no run to speak of."""
    run = _json(folder / RUN)
    if not isinstance(run, dict):
        raise RecordError(f"{folder / RUN}: not an object")
    missing: list[str] = []
    samples = _samples(folder / SAMPLES, missing)
    faults = [_fault(entry, folder / FAULTS) for entry in _list(_optional(folder / FAULTS, missing))]
    series = _series(_optional(folder / SERIES, missing), missing)
    verdicts = [_verdict(entry, folder / RUN) for entry in _list(run.get("verdicts"))]
    scenario = run.get("scenario")
    return Record(
        folder=str(folder.resolve()),
        scenario=scenario if isinstance(scenario, dict) else {"name": scenario or ""},
        seed=str(run.get("seed", "")),
        started=str(run.get("started", "")),
        seconds=_length(run.get("seconds"), samples, faults),
        machine=_dict(run.get("machine")),
        versions=_dict(run.get("versions")),
        verdicts=verdicts,
        held=run.get("held") is True and all(verdict.held for verdict in verdicts),
        command=str(run.get("command") or ""),
        samples=samples,
        faults=sorted(faults, key=lambda fault: fault.at_s),
        series=series,
        missing=missing,
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: not there") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: can't be read: {error}") from error


def _optional(path: Path, missing: list[str]) -> Any:
    if not path.exists():
        missing.append(f"{path.name} is not there")
        return None
    return _json(path)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _verdict(entry: Any, path: Path) -> Verdict:
    if not isinstance(entry, dict) or "promise" not in entry:
        raise RecordError(f"{path}: a verdict without a promise: {str(entry)[:80]}")
    return Verdict(str(entry["promise"]), entry.get("held") is True, str(entry.get("seen") or ""))


def _fault(entry: Any, path: Path) -> Fault:
    at_s = number(entry.get("at_s")) if isinstance(entry, dict) else math.nan
    if math.isnan(at_s):
        raise RecordError(f"{path}: a fault without a time: {str(entry)[:80]}")
    until_s = number(entry.get("until_s"))
    name, target = str(entry.get("fault") or "fault"), str(entry.get("target") or "")
    return Fault(at_s, None if math.isnan(until_s) else max(at_s, until_s), name, target, _detail(entry.get("detail")))


def _detail(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {what}" for key, what in value.items())
    return json.dumps(value)


def number(value: Any) -> float:
    """NaN for all that is no finite number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def _length(value: Any, samples: Sequence[Sample], faults: Sequence[Fault]) -> float:
    """At least up to the last thing that happened, and never nothing."""
    told = number(value)
    last = max((sample.due_s for sample in samples), default=0.0)
    ends = (fault.until_s if fault.until_s is not None else fault.at_s for fault in faults)
    return max(0.0 if math.isnan(told) else told, last, max(ends, default=0.0), 0.1)


def _samples(path: Path, missing: list[str]) -> list[Sample]:
    if not path.exists():
        missing.append(f"{path.name} is not there")
        return []
    samples: list[Sample] = []
    bad = 0
    for sample in _rows(path):
        if sample is None:
            bad += 1
        else:
            samples.append(sample)
    if bad:
        missing.append(f"{bad} of {bad + len(samples)} rows of {path.name} can't be read and are left out")
    return samples


def _rows(path: Path) -> Iterator[Sample | None]:
    """None for a row that makes no sense."""
    csv.field_size_limit(_FIELD_MAX)
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        header = {name.strip(): place for place, name in enumerate(next(rows, ()))}
        if not header:
            return
        try:
            due, done, outcome = header["due_s"], header["done_s"], header["outcome"]
        except KeyError as error:
            raise RecordError(f"{path}: no column {error}") from None
        model, version = header.get("model", -1), header.get("version", -1)
        try:
            for row in rows:
                try:
                    names = row[outcome], row[model] if model >= 0 else "", row[version] if version >= 0 else ""
                    yield _sample(row[due], row[done], *names)
                except (IndexError, ValueError):
                    yield None
        except csv.Error as error:
            raise RecordError(f"{path}: can't be read: {error}") from error


def _sample(due: str, done: str, outcome: str, model: str, version: str) -> Sample | None:
    due_s, done_s = float(due), float(done) if done else math.nan
    if outcome not in OUTCOMES or not 0 <= due_s < math.inf or done_s == math.inf:
        return None
    return Sample(due_s, done_s, outcome, model, version)


def _series(value: Any, missing: list[str]) -> list[Series]:
    times = [number(moment) for moment in _list(_dict(value).get("t_s"))]
    found = []
    for entry in _list(_dict(value).get("series")):
        values = [number(each) for each in _list(_dict(entry).get("values"))]
        if not isinstance(entry, dict) or not entry.get("name"):
            missing.append("a series has no name and is left out")
            continue
        kept = [pair for pair in zip(times, values, strict=False) if not math.isnan(pair[0])]
        if any(not math.isnan(each) for _, each in kept):
            name, label, unit = (str(entry.get(key) or "") for key in ("name", "label", "unit"))
            found.append(Series(name, label or name, unit, [at for at, _ in kept], [each for _, each in kept]))
    return found
