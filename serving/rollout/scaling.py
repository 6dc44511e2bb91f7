"""How many replicas the work needs. Pure.

Serve calls ``policy`` in its controller and then applies the delays and the limits of the settings itself. It carries
this module there by value, so nothing of ours is imported here. Not here: where the figures come from
(``serving.deployments``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Protocol

DEMAND = "holdfast_demand"
"""The figure that every replica gives Serve: requests that wait or are in flight for it."""

SLACK = 0.9
"""Fewer replicas do if they would be no fuller than this share of the target: else they come and go at its edge."""


def wanted_replicas(demands: Collection[float], *, running: int, current: int, target: float) -> int:
    """Replicas that bring the demand on each to ``target``, or ``current`` while nothing is known.

    ``demands`` are those of the replicas that have reported, of ``running`` in all. The others have just started; work
    is shared evenly, so they are taken to have as much.
    """
    if not demands:
        return current
    total = sum(demands) / len(demands) * max(running, len(demands))
    needed = math.ceil(total / target)
    if needed < current:
        needed = min(current, math.ceil(total / (target * SLACK)))
    return max(1, needed)


class Config(Protocol):
    def get_target_ongoing_requests(self) -> float: ...


class Context(Protocol):
    """What Serve hands to a policy, as far as it matters here."""

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...

    @property
    def current_num_replicas(self) -> int: ...

    @property
    def target_num_replicas(self) -> int: ...

    @property
    def config(self) -> Config: ...


def policy(context: Context) -> tuple[int, dict[str, Any]]:
    """Serve's question; the second part is state that Serve would keep, and there is none."""
    demands = (context.aggregated_metrics or {}).get(DEMAND, {}).values()
    wanted = wanted_replicas(
        tuple(demands),
        running=context.current_num_replicas,
        current=context.target_num_replicas,
        target=context.config.get_target_ongoing_requests(),
    )
    return wanted, {}
