"""What was done, in words: shared by the page and the summary. Pure."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from loadtests.report import texts
from loadtests.report.figures import AFTER, CALM, DURING, Figures
from loadtests.report.record import Record

_COMMIT = re.compile(r"[0-9a-f]{7,40}\b")
HELD, NOT_HELD, NO_VERDICT = "Held", "Not held", "No verdict"


def verdict(record: Record) -> str:
    """A run without a single promise shows nothing, whatever it says of itself."""
    if not record.verdicts:
        return NO_VERDICT
    return HELD if record.held else NOT_HELD


def promises(record: Record) -> str:
    if not record.verdicts:
        return "No promise was checked"
    kept = sum(each.held for each in record.verdicts)
    if kept == len(record.verdicts) and not record.held:
        return f"{kept} of {kept} promises held, but the run itself failed"
    return f"{kept} of {texts.some(len(record.verdicts), 'promise')} held"


def what(record: Record) -> str:
    """The scenario in a sentence."""
    return str(record.scenario.get("what") or record.scenario.get("description") or "")


def commands(record: Record) -> list[str]:
    """What to type for the same run."""
    commit = _COMMIT.match(str(record.versions.get("commit") or ""))
    checkout = [f"git checkout {commit[0]}"] if commit else []
    if record.command:
        return [*checkout, record.command]
    name = str(record.scenario.get("name") or "")
    if not name:
        return []
    seed = f" --seed {shlex.quote(record.seed)}" if record.seed else ""
    return [*checkout, f"python -m loadtests.chaos run {shlex.quote(name)}{seed}"]


def pairs(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values, as a list to read."""
    known = ((name, _plain(each)) for name, each in value.items() if each not in (None, ""))
    return [
        (name.removesuffix("_gib"), f"{each} GiB") if name.endswith("_gib") else (name.replace("_", " "), each)
        for name, each in known
    ]


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def when(record: Record) -> list[tuple[str, str]]:
    found = [("scenario", record.name), ("seed", record.seed), ("started", record.started)]
    return [pair for pair in [*found, ("length", texts.seconds(record.seconds))] if pair[1]]


def key_figures(figures: Figures) -> list[tuple[str, str, str, str]]:
    """A figure, its name, what to compare it with, and the outcome whose colour it has if it isn't nought."""
    counts = figures.counts
    found = [
        (texts.count(figures.requests), "requests", f"{texts.count(counts['ok'])} ok", ""),
        (texts.count(counts["error"]), "errors", texts.share(counts["error"], figures.requests), "error"),
        (texts.count(counts["wrong"]), "wrong answers", texts.share(counts["wrong"], figures.requests), "wrong"),
        (
            texts.share(counts["degraded"], figures.answers),
            "degraded",
            f"{texts.count(counts['degraded'])} answers",
            "",
        ),
    ]
    if counts["shed"]:
        found.append((texts.share(counts["shed"], figures.requests), "shed", f"{texts.count(counts['shed'])}", ""))
    phases = (DURING, CALM) if DURING in figures.phases else (CALM, AFTER)
    label = "p99 during faults" if phases[0] == DURING else "p99"
    found.append((texts.milliseconds(figures.p99(phases[0])), label, _beside(figures, phases[1]), ""))
    return found


def _beside(figures: Figures, phase: str) -> str:
    return f"{phase}: {texts.milliseconds(figures.p99(phase))}" if phase in figures.phases else ""
