"""What was promised, whether it held, and the table that says so. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtests.resilience.table import duration

_HEAD = ("scenario", "requests", "errors", "wrong", "degraded", "p99", "ended as", "taken back in", "last answer", "")
_TEXT = (0, 6, 9)  # these begin at the left; numbers end at the right


class Promise(NamedTuple):
    """One thing that has to hold, and what was seen."""

    held: bool
    text: str


@dataclass(frozen=True)
class Row:
    """What was counted in a scenario."""

    requests: int = 0
    errors: int = 0
    wrong: int = 0
    degraded: int = 0
    p99_s: float = float("nan")


@dataclass(frozen=True)
class Outcome:
    """A scenario's line in the table, and what stands below it.

    `taken_back_s` is the system's own figure, from the evidence to the last gateway; `last_answer_s` is seen from
    outside: from the evidence to the last answer of the canary.
    """

    name: str
    row: Row | None
    promises: Sequence[Promise]
    end: str = ""
    reason: str = ""
    taken_back_s: float | None = None
    last_answer_s: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def held(self) -> bool:
        return bool(self.promises) and all(promise.held for promise in self.promises)


def render(outcomes: Sequence[Outcome]) -> str:
    """A line for each scenario, then what each promised."""
    rows = [_cells(outcome) for outcome in outcomes]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    lines = [_line(_HEAD, widths), "  ".join("─" * width for width in widths)]
    lines += [_line(row, widths) for row in rows]
    for outcome in outcomes:
        lines += ["", *_below(outcome)]
    return "\n".join([*lines, "", summary(outcomes)])


def summary(outcomes: Sequence[Outcome]) -> str:
    promises = [promise for outcome in outcomes for promise in outcome.promises]
    kept = sum(promise.held for promise in promises)
    held = sum(outcome.held for outcome in outcomes)
    return f"{held} of {len(outcomes)} scenarios held; {kept} of {len(promises)} promises were kept"


def went_well(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and all(outcome.held for outcome in outcomes)


def one_sentence(reason: str) -> bool:
    """Whether a person reads it at a glance: a line, not a trace, and not nothing."""
    return 10 <= len(reason) <= 300 and "\n" not in reason and "Traceback" not in reason


def _below(outcome: Outcome) -> list[str]:
    lines = [outcome.name]
    if outcome.reason:
        lines.append(f"  reason    {outcome.reason}")
    lines += [f"  {'held' if promise.held else 'NOT held':<8}  {promise.text}" for promise in outcome.promises]
    return lines + [f"  seen      {note}" for note in outcome.notes]


def _cells(outcome: Outcome) -> tuple[str, ...]:
    row = outcome.row
    counts = ("-",) * 5
    if row is not None:
        requests = f"{row.requests:,}".replace(",", " ")
        counts = (requests, str(row.errors), str(row.wrong), str(row.degraded), duration(row.p99_s))
    broken = sum(not promise.held for promise in outcome.promises)
    said = "held" if outcome.held else f"{broken} NOT held"
    taken = "-" if outcome.taken_back_s is None else duration(outcome.taken_back_s)
    last = "-" if outcome.last_answer_s is None else _later(outcome.last_answer_s)
    return (outcome.name, *counts, outcome.end or "-", taken, last, said)


def _later(seconds: float) -> str:
    return duration(seconds) if seconds > 0 else "none later"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        f"{cell:<{width}}" if column in _TEXT else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()
