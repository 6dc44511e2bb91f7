"""Which alerts should fire in a scenario, which did, and the table of that. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

CALM: Final = "calm"
_PREFIX: Final = "Holdfast"
_HEAD: Final = ("scenario", "should fire", "fired", "in calm", "verdict")


class Fired(NamedTuple):
    """An alert that was seen to fire, so many seconds after the load began."""

    at_s: float
    name: str
    severity: str


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Alerts of a scenario, by name; one that is in neither is a false alarm.

    `must`: without them nobody would hear of it. `may`: it depends on how fast the system was this time.
    """

    must: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


class Judged(NamedTuple):
    """One line of the table."""

    scenario: str
    expected: Expected
    fired: tuple[str, ...]
    in_calm: tuple[str, ...]
    trouble: str = ""

    @property
    def complaint(self) -> str:
        silent = sorted({*self.expected.must} - {*self.fired})
        false = sorted({*self.fired} - {*self.expected.must, *self.expected.may})
        said = [self.trouble] if self.trouble else []
        said += [f"{name} is silent" for name in silent]
        said += [f"{name} is a false alarm" for name in false]
        said += [f"{name} fires in calm" for name in self.in_calm]
        return "; ".join(said)


def expectations(document: Any) -> dict[str, Expected]:
    """What the file says. Raises `msgspec.ValidationError`."""
    return msgspec.convert(document, dict[str, Expected])


def judge(scenario: str, expected: Expected, fired: Sequence[Fired], *, calm_s: float, trouble: str = "") -> Judged:
    """Calm is the time before anything is done, from the load's first request on."""
    later = dict.fromkeys(one.name for one in fired if one.at_s >= calm_s)
    calm = dict.fromkeys(one.name for one in fired if 0 <= one.at_s < calm_s)
    return Judged(scenario, expected, tuple(later), tuple(calm), trouble)


def table(lines: Sequence[Judged]) -> str:
    """As Markdown, which a terminal shows well enough."""
    rows = [_cells(line) for line in lines]
    held = sum(not line.complaint for line in lines)
    body = "\n".join("| " + " | ".join(cells) + " |" for cells in [_HEAD, ("---",) * len(_HEAD), *rows])
    return f"{body}\n\n{held} of {len(lines)} scenarios held"


def _cells(line: Judged) -> tuple[str, ...]:
    may = [f"({name.removeprefix(_PREFIX)})" for name in line.expected.may]
    return (
        line.scenario,
        _listed([*line.expected.must, *may]),
        _listed(line.fired),
        _listed(line.in_calm),
        f"NOT held: {line.complaint}" if line.complaint else "held",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.removeprefix(_PREFIX) for name in names) or "-"


def by_severity(fired: Sequence[Fired]) -> Mapping[str, tuple[float, str]]:
    """When each alert was first seen, and the worst severity that it had."""
    order = ("info", "ticket", "page")
    found: dict[str, tuple[float, str]] = {}
    for one in sorted(fired):
        at_s, severity = found.get(one.name, (one.at_s, one.severity))
        found[one.name] = (at_s, max(severity, one.severity, key=order.index))
    return found
