"""When each fault of a scenario happens, and whom it meets. Pure: the same chance gives the same schedule.

Not here: waiting for those moments (`run.py`).
"""

from typing import NamedTuple, Protocol, TypeVar

from loadtests.chaos.faults import AnyFault, Fault, name_of, parameters
from loadtests.chaos.spec import Scenario

T = TypeVar("T")


class Chance(Protocol):
    """Where numbers between 0 and 1 come from: `random.Random`."""

    def random(self) -> float: ...


class Due(NamedTuple):
    """A fault that is due so many seconds after the load began."""

    at_s: float
    fault: AnyFault
    lot: float
    """From 0 to 1: which one of several is hurt."""

    def described(self) -> dict[str, object]:
        return {"at_s": round(self.at_s, 3), "fault": name_of(self.fault), **parameters(self.fault)}


def schedule(scenario: Scenario, chance: Chance) -> tuple[Due, ...]:
    """In the order of time. Every fault takes the same draws, so that one more at the end changes none before it."""
    found: list[Due] = []
    for fault in scenario.faults:
        found += [_due(at_s, fault, chance) for at_s in _moments(fault)]
    if scenario.draw is not None:
        draw = scenario.draw
        at_s = float(draw.at)
        while at_s < draw.until:
            chosen = one_of(draw.faults, chance.random())
            found.append(_due(at_s, chosen, chance))
            at_s += draw.every
    return tuple(sorted(found, key=lambda due: due.at_s))


def one_of(things: list[T], lot: float) -> T:
    return things[min(int(lot * len(things)), len(things) - 1)]


def _moments(fault: Fault) -> list[float]:
    if fault.every is None or fault.until is None:
        return [float(fault.at)]
    count = 1 + int(max(0.0, fault.until - fault.at - 1e-9) / fault.every)
    return [fault.at + number * fault.every for number in range(count)]


def _due(at_s: float, fault: AnyFault, chance: Chance) -> Due:
    late_s, lot = chance.random() * fault.jitter, chance.random()
    return Due(at_s + late_s, fault, lot if fault.lot is None else fault.lot)
