"""Plays for each protection the scenario that it is meant for, without it: the scenario has to notice.

Not here: which is meant for which (`protections.py`).
"""

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.chaos import library
from loadtests.chaos.one import Say
from loadtests.chaos.protections import PROTECTIONS
from loadtests.chaos.run import THE_END, Failure, Plan, run
from loadtests.chaos.verdict import Verdict
from loadtests.resilience.errors import RunError

BEGIN: Final = "<!-- The table is written by `python -m loadtests.chaos broken --write-docs`. -->\n"
END: Final = "<!-- The end of the table. -->\n"
_HEAD: Final = ("Switched off", "What it does", "Scenario", "What fails then")


class Noticed(NamedTuple):
    """What the scenario said while a protection was off. `why`: it came to no end."""

    protection: str
    verdicts: Sequence[Verdict] = ()
    why: str = ""

    @property
    def broken(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.held]

    @property
    def noticed(self) -> bool:
        """A promise that is about the protection was broken, and the run itself was a good one."""
        about = PROTECTIONS[self.protection].about
        steady = bool(self.verdicts) and self.verdicts[0].held
        return steady and any(word in verdict.promise for verdict in self.broken for word in about)


async def broken(plan: Plan, names: Sequence[str], say: Say) -> AsyncGenerator[Noticed]:
    """One for each name, in their order. Of `plan` all but the scenarios and the protection counts."""
    for name in names:
        say(f"without {name}: {PROTECTIONS[name].scenario}")
        yield await _one(plan, name, say)


async def _one(plan: Plan, name: str, say: Say) -> Noticed:
    scenario = library.load(PROTECTIONS[name].scenario)
    alone = replace(plan, scenarios=[scenario], protection=name, out=plan.out / name)
    found, why = Noticed(name), ""
    try:
        async for result in run(alone, say):
            if not isinstance(result, Failure):
                found = Noticed(name, result.verdicts)
            elif result.name != THE_END:
                why = result.why
    except RunError as error:
        why = str(error)
    return found if found.verdicts else Noticed(name, why=why or "nothing was judged")


def cells(one: Noticed) -> tuple[str, str, str, str]:
    protection = PROTECTIONS[one.protection]
    said = "; ".join(f"{verdict.promise}: {verdict.seen}".rstrip(": ") for verdict in one.broken)
    if not one.noticed:
        said = f"NOT NOTICED: {one.why or said or 'every promise held'}"
    return one.protection, protection.what, protection.scenario, said


def row(one: Noticed) -> str:
    return _line(cells(one))


def _line(of: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in of)} |\n"


def in_a_terminal(found: Sequence[Noticed]) -> str:
    lines = [f"{one.protection:<12}  {cells(one)[2]:<26}  {cells(one)[3]}" for one in found]
    return "\n".join([*lines, "", f"{sum(one.noticed for one in found)} of {len(found)} were noticed"])


def written(page: str, one: Noticed) -> str:
    """The page with this line in its table instead of the old one. Raises `RunError` if it has no table."""
    pattern = re.compile(f"({re.escape(BEGIN)})(.*?)({re.escape(END)})", re.DOTALL)
    marks = pattern.search(page)
    if marks is None:
        raise RunError("the page has no place for the table")
    rows = {line.split("|")[1].strip(): f"{line}\n" for line in marks[2].splitlines() if line.startswith("|")}
    rows |= {one.protection: row(one)}
    body = "".join(rows[name] for name in PROTECTIONS if name in rows)
    head = _line(_HEAD) + _line(("---",) * len(_HEAD))
    return f"{page[: marks.end(1)]}\n{head}{body}\n{page[marks.start(3) :]}"


def write(path: Path, one: Noticed) -> None:
    path.write_text(written(path.read_text(), one))
