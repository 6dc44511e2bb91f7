"""What a run says in a terminal. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from loadtests.chaos.verdict import Verdict
from loadtests.users.rows import Outcome, Row

_HEAD: Final = ("scenario", "requests", "errors", "wrong", "degraded", "shed", "verdict")


class Line(NamedTuple):
    """One scenario in the table of all."""

    name: str
    counts: tuple[int, ...]
    complaint: str

    @property
    def held(self) -> bool:
        return not self.complaint


def line(name: str, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> Line:
    wanted = (Outcome.ERROR, Outcome.WRONG, Outcome.DEGRADED, Outcome.SHED)
    counts = (len(rows), *(sum(row.outcome is outcome for row in rows) for outcome in wanted))
    broken = [f"{verdict.promise}: {verdict.seen}".rstrip(": ") for verdict in verdicts if not verdict.held]
    return Line(name, counts, "; ".join(broken) if verdicts else "nothing was judged")


def of_verdicts(name: str, verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> str:
    """A line for each promise of one scenario."""
    width = max((len(verdict.promise) for verdict in verdicts), default=0)
    lines = [name]
    for verdict in verdicts:
        said = f"{verdict.promise:<{width}}  {verdict.seen}".rstrip()
        lines.append(f"  {'held' if verdict.held else 'NOT held':<8}  {said}")
    return "\n".join([*lines, *(f"  seen      {note}" for note in notes)])


def of_all(lines: Sequence[Line]) -> str:
    rows = [_cells(each) for each in lines]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD) - 1)]
    ruled = "  ".join("─" * width for width in [*widths, len(_HEAD[-1])])
    held = sum(each.held for each in lines)
    body = [_joined(row, widths) for row in rows]
    return "\n".join([_joined(_HEAD, widths), ruled, *body, "", f"{held} of {len(lines)} scenarios held"])


def _cells(each: Line) -> tuple[str, ...]:
    counts = tuple(f"{count:,}".replace(",", " ") for count in each.counts) or ("-",) * 5
    return (each.name, *counts, "held" if each.held else f"NOT held: {each.complaint}")


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = f"{cells[0]:<{widths[0]}}"
    middle = [f"{cell:>{width}}" for cell, width in zip(cells[1:-1], widths[1:], strict=True)]
    return "  ".join([first, *middle, cells[-1]])
