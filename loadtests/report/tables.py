"""The tables of the page and of the summary, as plain text in rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.report import texts
from loadtests.report.faults import words
from loadtests.report.figures import ECHO_S, Figures, Latency
from loadtests.report.record import OUTCOMES

ROWS_MAX = 60
_MEANING = {
    "ok": "answered right, by the version asked for",
    "degraded": "answered right by a fallback, and marked as such",
    "shed": "refused at once because of too much load",
    "cancelled": "given up by the client",
    "error": "failed, or not answered at all",
    "wrong": "answered wrong, or degraded without a mark",
}


@dataclass(frozen=True)
class Table:
    """The first `words` columns are words, the others are figures."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    left_out: int = 0


def tables(figures: Figures) -> list[Table]:
    """Those that have rows."""
    found = [outcomes(figures), latencies(figures), effects(figures), versions(figures)]
    return [table for table in found if table.rows]


def outcomes(figures: Figures) -> Table:
    rows = [
        (name, _MEANING[name], texts.count(figures.counts[name]), texts.share(figures.counts[name], figures.requests))
        for name in OUTCOMES
        if figures.requests
    ]
    return Table("Outcomes", "", ("outcome", "meaning", "requests", "share"), rows, words=2)


def latencies(figures: Figures) -> Table:
    rows = [_latency(f"answers, {phase}", each) for phase, each in figures.phases.items()]
    if len(rows) > 1:
        rows.append(_latency("answers, whole run", figures.whole))
    rows += [_latency(f"refusals, {phase}", each) for phase, each in figures.refusals.items()]
    note = (
        "From the moment a request was due, so that a stall isn't hidden by clients that wait. Calm is before the "
        f"first fault; a fault without an end counts for {ECHO_S:g} s; a request counts as during faults if one was at "
        "work at any time while it was open."
    )
    return Table("Latencies", note, ("", "requests", "p50", "p90", "p99", "max"), rows)


def _latency(name: str, each: Latency) -> tuple[str, ...]:
    values = (each.p50, each.p90, each.p99, each.longest)
    return (name, texts.count(each.number), *(texts.milliseconds(value) for value in values))


def effects(figures: Figures) -> Table:
    rows = []
    for each in figures.effects[:ROWS_MAX]:
        fault = each.fault
        end = "" if fault.until_s is None else texts.seconds(fault.until_s - fault.at_s)
        told = ", ".join(part for part in (fault.target, fault.detail) if part)
        hit = [texts.count(each.counts[name]) for name in ("degraded", "shed", "error", "wrong")]
        last = "none" if each.trouble_s is None else texts.seconds(each.trouble_s)
        rows.append((words(fault.name), told, texts.clock(round(fault.at_s, 1)), end, *hit, last))
    note = (
        "What was due from the beginning of a fault until the next one began. The last column says how long after its "
        "beginning a request was due that got no ordinary answer for the last time."
    )
    header = ("fault", "target", "at", "lasted", "degraded", "shed", "errors", "wrong", "last trouble after")
    return Table("Faults", note, header, rows, words=2, left_out=max(0, len(figures.effects) - ROWS_MAX))


def versions(figures: Figures) -> Table:
    rows = [
        (model or "?", version or "none", *(texts.count(counts[name]) for name in OUTCOMES))
        for model, version, counts in figures.versions[:ROWS_MAX]
    ]
    left_out = max(0, len(figures.versions) - ROWS_MAX)
    return Table("Versions that answered", "", ("model", "version", *OUTCOMES), rows, words=2, left_out=left_out)
