"""What closing a breaker by hand came to: each gateway has one of its own, so all of them are told. Pure.

Not here: the breakers (``serving.request.breaker``), telling the gateways (``serving.deployments.control``).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serving.errors import BreakerNotOpen, ModelNotFound, ReplicaUnavailable


class Closed(msgspec.Struct, frozen=True):
    """How many gateways there are, how many ``answered``, and in how many the breaker was ``closed`` by this."""

    gateways: int
    answered: int
    closed: int


def closed(name: str, answers: Sequence[bool | None], *, gateways: int) -> Closed:
    """``answers``: whether it was closed by this, or None if the version isn't served there.

    Raises ``ModelNotFound``, ``BreakerNotOpen``, and ``ReplicaUnavailable`` if no gateway answered.
    """
    if not answers:
        raise ReplicaUnavailable("no gateway answered, so no breaker is known to be closed; try again")
    if all(answer is None for answer in answers):
        raise ModelNotFound(f"no gateway serves {name}")
    count = sum(answer is True for answer in answers)
    if not count:
        where = (
            "all gateways"
            if len(answers) >= gateways
            else f"{len(answers)} of {gateways} gateways, the rest was silent"
        )
        raise BreakerNotOpen(f"the breaker of {name} is closed already in {where}")
    return Closed(max(gateways, len(answers)), len(answers), count)
