"""A scenario with its seed played out: every fault at its moment and with its victim, as a file that can be run. Pure.

So a failure that a seed has found is kept: as a scenario that doesn't depend on how seeds are used.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from loadtests.chaos.durations import Seconds
from loadtests.chaos.faults import AnyFault, Fault, name_of
from loadtests.chaos.schedule import Due
from loadtests.chaos.spec import Scenario


def composed(scenario: Scenario, seed: int, schedule: Sequence[Due]) -> Scenario:
    """The same without anything to be drawn. Who asks when is still the seed's, as in every load."""
    return msgspec.structs.replace(
        scenario, name=f"{scenario.name}_{seed}"[:60], faults=[_fixed(due) for due in schedule], draw=None
    )


def text(scenario: Scenario) -> str:
    """A file that reads as this scenario; what is as usual is left out."""
    document: str = yaml.safe_dump(_said(scenario), sort_keys=False, allow_unicode=True, width=120)
    return document


def _fixed(due: Due) -> AnyFault:
    at, lot = Seconds(round(due.at_s, 3)), round(due.lot, 4)
    return msgspec.structs.replace(due.fault, at=at, every=None, until=None, jitter=Seconds(0), lot=lot)


def _said(thing: Any) -> Any:
    if isinstance(thing, msgspec.Struct):
        kind = {"fault": name_of(thing)} if isinstance(thing, Fault) else {}
        return kind | {
            field.name: _said(getattr(thing, field.name))
            for field in msgspec.structs.fields(thing)
            if getattr(thing, field.name) != _usual(field)
        }
    if isinstance(thing, (list, tuple)):
        return [_said(each) for each in thing]
    return float(thing) if isinstance(thing, float) else thing


def _usual(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
