"""What rollouts see of the system and do to it. Not here: how (``serving.rollout.effects``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from serving.rollout.desired import DesiredState
from serving.rollout.spec import RolloutSpec
from serving.rollout.state import RolloutState
from serving.routing.collected import Asked, Collected

Look = Callable[[], RolloutState]
"""Where a rollout is by now: later decisions may come while something is still being done."""


class Told(NamedTuple):
    """So many of the gateways have the table of this generation. ``gateways`` is 0 if nobody knows how many there are.

    Counting happens when a table is handed out; a gateway that starts later reads the newest one before anything else.
    """

    generation: int
    acknowledged: int
    gateways: int

    @property
    def all(self) -> bool:
        """Whether every gateway that lives has it."""
        return 0 < self.gateways <= self.acknowledged


class World(Protocol):
    """Whatever is asked for may be asked for again: what is done already changes nothing."""

    def begin(self, desired: DesiredState | None) -> None:
        """Bring up all that shall be served; None if what the rollouts have come to can't be known.

        Only the first time: later it is there.
        """
        ...

    def stable(self, model: str) -> str:
        """The version that answers by default now. Raises ``RolloutRefused`` if none does."""
        ...

    async def check(self, spec: RolloutSpec, prior: str) -> None:
        """What can be said before anything happens. Raises ``InvalidRequest`` naming the key."""
        ...

    async def deploy(self, spec: RolloutSpec, prior: str) -> None:
        """Verify and deploy the canary; returns when it is ready. Raises ``RequestError``."""
        ...

    async def arrange(self, look: Look) -> Told:
        """Bring the table to where the rollout stands by then, and tell the gateways.

        Raises ``LoadFailed`` if a version that the table would have to name isn't served.
        """
        ...

    async def remove(self, look: Look, version: str) -> None:
        """End the replicas of a version that the rollout has no more use for. Raises ``LoadFailed``."""
        ...

    async def collect(self, asked: Asked) -> tuple[int, Sequence[Collected]]:
        """How many gateways there are, 0 if nobody knows, and what those say that answer in time."""
        ...

    def breakdown(self, spec: RolloutSpec) -> str:
        """Why a version that was ready can be so no more, as when it crashes again and again; else nothing."""
        ...

    def forget(self, spec: RolloutSpec) -> None:
        """Nobody asks for the breakdown of this version any more."""
        ...
