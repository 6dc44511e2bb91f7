"""What a scenario is."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from loadtests.rollouts.stage import Stage

SQLITE: Final = "sqlite"
"""The event log is a file."""
POSTGRES: Final = "postgres"
"""The event log is in a PostgreSQL of its own."""

Run = Callable[[Stage], Awaitable[None]]


class Scenario(NamedTuple):
    """`versions`: those that the run has to make for it."""

    name: str
    setup: str
    run: Run
    versions: tuple[str, ...] = ()
