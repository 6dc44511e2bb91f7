"""How the control plane asks a gateway what it has counted of rollouts, and the form of the answer. Pure.

The same question goes to all gateways. Not here: what is counted (``serving.routing.outcomes``,
``serving.shadow.counts``), and taking differences (``serving.rollout.collector``).
"""

from __future__ import annotations

import msgspec

from serving.routing.outcomes import SplitOutcomes
from serving.shadow.counts import MirrorCounts


class Asked(msgspec.Struct, frozen=True):
    """Which models are meant, and for each, by the gateway's name, how many of its bad keys are known already.

    A gateway that isn't named tells all of them.
    """

    keys_from: dict[str, dict[str, int]] = {}


class Collected(msgspec.Struct, frozen=True):
    """What one gateway has counted of the models that were asked for; ``generation`` is its routing table's.

    ``gateway`` or ``started`` (wall clock) is another one's after a restart, whose counts begin at 0.
    """

    gateway: str
    started: float
    generation: int
    outcomes: tuple[SplitOutcomes, ...] = ()
    mirrors: tuple[MirrorCounts, ...] = ()


def asked_to_json(asked: Asked) -> bytes:
    return msgspec.json.encode(asked)


def asked_from_json(raw: bytes) -> Asked:
    """Raises ``ValueError`` for anything that isn't such a question."""
    return _asked.decode(raw)


def collected_to_json(collected: Collected) -> bytes:
    return msgspec.json.encode(collected)


def collected_from_json(raw: bytes) -> Collected:
    """Raises ``ValueError`` for anything that isn't such an answer."""
    return _collected.decode(raw)


_asked = msgspec.json.Decoder(Asked)
_collected = msgspec.json.Decoder(Collected)
