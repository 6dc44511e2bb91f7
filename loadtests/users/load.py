"""What a load is: its shape, its rate, and who asks. And when each request of it is due. Pure.

Not here: sending them (`people.py`).
"""

import math
from collections.abc import Iterator
from typing import Annotated, Final, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta

Weight = Annotated[int, Meta(ge=0, le=1000)]
Shape = Literal["steady", "ramp", "spike", "diurnal", "overload"]

BURST: Final = 10
"""So many requests of a bursting user are due at the same moment."""
_RAMP_FROM: Final = 0.25
_NIGHT: Final = 0.3
_CALM_OF_OVERLOAD: Final = 0.5


class Users(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who asks, by weight: of so many requests in all, this many are theirs."""

    json: Weight = 0
    binary: Weight = 0
    mixed: Weight = 0
    sticky: Weight = 0
    bursts: Weight = 0
    slow_readers: Weight = 0
    cancelling: Weight = 0
    poison: Weight = 0

    def __post_init__(self) -> None:
        if not any(self.weights().values()):
            raise ValueError("nobody asks: at least one weight must be above 0")

    def weights(self) -> dict[str, int]:
        return {field: getattr(self, field) for field in self.__struct_fields__}


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is asked. `rate` is in requests a second; with `overload` it is `factor` times that."""

    rate: Annotated[float, Meta(gt=0, le=5000)]
    seconds: Annotated[float, Meta(ge=2, le=7200)]
    shape: Shape = "steady"
    factor: Annotated[float, Meta(ge=1, le=20)] = 3.0
    users: Users = Users(json=4, binary=3, mixed=1, sticky=2)
    body_bytes: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    """Requests are made at least so long, with blanks in their JSON."""
    timeout: Annotated[float, Meta(gt=0, le=60)] | None = None
    """The deadline in seconds that users put on each request; left out: the model's."""


class Arrival(NamedTuple):
    """A request that is due so many seconds after the load began."""

    due_s: float
    user: str
    number: int
    """What it asks follows from it."""


class Chance(Protocol):
    """Where numbers between 0 and 1 come from: `random.Random`."""

    def random(self) -> float: ...


def rate_at(load: Load, seconds: float, *, calm_s: float) -> float:
    """Requests a second at this moment. In calm it is as low as the shape ever is, but for `spike`."""
    progress = max(0.0, (seconds - calm_s) / max(1e-9, load.seconds - calm_s))
    match load.shape:
        case "ramp":
            return load.rate * (_RAMP_FROM + (1 - _RAMP_FROM) * progress)
        case "spike":
            return load.rate * (load.factor if seconds >= calm_s and 0.4 <= progress < 0.6 else 1)
        case "diurnal":
            return load.rate * (_NIGHT + (1 - _NIGHT) * (1 - math.cos(2 * math.pi * progress)) / 2)
        case "overload":
            return load.rate * (load.factor if seconds >= calm_s else _CALM_OF_OVERLOAD)
        case _:
            return load.rate


def arrivals(load: Load, chance: Chance, *, calm_s: float) -> Iterator[Arrival]:
    """Each is due whether or not those before it were answered. Who asks is drawn; a burst is one moment's."""
    names, bounds = _lots(load.users)
    due_s, index = 0.0, 0
    while due_s < load.seconds:
        lot = chance.random() * bounds[-1]
        user = next(name for name, bound in zip(names, bounds, strict=True) if lot < bound)
        many = BURST if user == "bursts" else 1
        yield from (Arrival(due_s, user, index + more) for more in range(many))
        index += many
        due_s += many / rate_at(load, due_s, calm_s=calm_s)


def _lots(users: Users) -> tuple[list[str], list[float]]:
    """Names, and up to where each one's lots go. A burst is drawn the more seldom, the longer it is."""
    names, bounds, total = [], [], 0.0
    for name, weight in users.weights().items():
        if weight:
            total += weight / BURST if name == "bursts" else weight
            names.append(name)
            bounds.append(total)
    return names, bounds
