"""What a scenario is, and what several of them share."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from loadtests.resilience.stage import Stage
from loadtests.resilience.verdict import Demands

PRIMARY: Final = "digits@v2"
BUSY_MS: Final = 40
"""So long a run takes where a fault shall hit requests under way: without it hardly any would be, and one replica
would do nearly all of the work."""

Run = Callable[[Stage], Awaitable[Demands]]


class Scenario(NamedTuple):
    """`setup` is the system that it needs, see `setups.py`."""

    name: str
    setup: str
    run: Run


def others_answer(stage: Stage, *met_by: str, degraded_share: float = 0.0) -> Demands:
    """What is asked where one of several is hurt, and attempts end in one of these ways."""
    share = max(degraded_share, stage.pace.mostly_fresh)
    return Demands(degraded_share=share, recover_within_s=stage.pace.patience_s, met_by=met_by)
