"""What every hand is given, and what it says afterwards.

Not here: the hands themselves (`on_*.py`; `hands.py` lists them).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from loadtests.chaos.faults import Fault
from loadtests.chaos.world import World
from loadtests.resilience.errors import RunError
from loadtests.rollouts.verdict import Promise

F_co = TypeVar("F_co", bound=Fault, covariant=True)

BACK_S: Final = 60.0
"""What isn't back by then never will be."""
_LOOK_S: Final = 0.05


@dataclass(frozen=True)
class Blow(Generic[F_co]):
    """A fault that is due now. `lot`, from 0 to 1, says which one of several it meets."""

    world: World
    fault: F_co
    lot: float


@dataclass
class Done:
    """What was done: to whom, and what was seen of it. `until_s` is on the load's clock."""

    target: str
    detail: str = ""
    until_s: float | None = None
    struck_s: float | None = None
    """When exactly; None: when it was due."""
    back_s: float | None = None
    """From the death to a serving replacement."""
    excused: bool = False
    """Whether nobody can be answered meanwhile."""
    promises: tuple[Promise, ...] = ()


Hand = Callable[[Blow[Any]], Awaitable[Done]]


async def soon(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Looked at more often than the system's `until` does: the time counts. Raises `RunError`."""
    try:
        async with asyncio.timeout(BACK_S):
            while not await condition():  # noqa: ASYNC110  # a process has no event for that
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise RunError(f"not within {BACK_S:g} s: {what}") from None
