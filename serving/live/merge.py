"""All gateways as one: what each says of itself, added up to what the node's users meet. Pure.

What only exists once is taken from the gateway with the newest routing table. Not here: series and rates
(``serving.live.history``), asking (``serving.live.siblings``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from serving.live.heard import BreakerHeard, Heard, ModelHeard, ReplicaHeard, StatusHeard, VersionHeard
from serving.live.snapshot import (
    BreakerState,
    BreakerView,
    FallbackUse,
    Gateways,
    ModelView,
    ReplicaView,
    Role,
    ShadowUse,
    VersionView,
    Waiting,
)

COMING: Final = "it is being brought up"

_STATES: Final[dict[str, BreakerState]] = {"closed": "closed", "half_open": "half-open", "open": "open"}
_GRAVITY: Final[tuple[BreakerState, ...]] = ("closed", "half-open", "open")


class _Told(NamedTuple):
    """What one gateway says of a model or version."""

    port: int
    time: float
    model: ModelHeard

    def version(self, name: str) -> VersionHeard | None:
        return self.model.versions.get(name)


def gateways(heard: Sequence[Heard], *, expected: int) -> Gateways:
    """Those that answered, by port."""
    told = sorted(heard)
    return Gateways(
        seen=len(told),
        expected=expected,
        accepting=sum(each.status.gateway.accepting for each in told),
        ports=tuple(each.port for each in told),
        generations=tuple(each.status.gateway.routing_table for each in told),
    )


def models(heard: Sequence[Heard]) -> tuple[ModelView, ...]:
    """Every model that any gateway knows, in order, without rates, series and rollout."""
    newest = sorted(heard, key=lambda each: (-each.status.gateway.routing_table, each.port))
    unavailable = _absent(newest[0].status) if newest else {}
    names = {name for each in newest for name in each.status.models}
    names |= {name.partition("@")[0] for name in unavailable}
    found = []
    for name in sorted(names):
        told = [
            _Told(each.port, each.status.gateway.time, model)
            for each in newest
            if (model := each.status.models.get(name)) is not None
        ]
        reasons = {v: why for key, why in unavailable.items() for m, _, v in [key.partition("@")] if m == name}
        found.append(_model(name, told, reasons))
    return tuple(found)


def _absent(status: StatusHeard) -> dict[str, str]:
    """Why versions aren't served that were, or should be."""
    return {**dict.fromkeys(status.coming, COMING), **status.unavailable}


def _model(name: str, told: Sequence[_Told], unavailable: dict[str, str]) -> ModelView:
    """``told`` by those with the newest table first."""
    stable = next((each.model.stable for each in told), None)
    names = sorted({version for each in told for version in each.model.versions} | unavailable.keys(), key=_natural)
    weight = _canary_weight(told)
    return ModelView(
        name=name,
        stable=stable,
        admission=_admission(told),
        fallbacks=_fallbacks(told),
        shadows=_shadows(told),
        versions=tuple(
            _version(
                version, told, role=_role(version, told, stable), weight=weight, reason=unavailable.get(version, "")
            )
            for version in names
        ),
    )


def _admission(told: Iterable[_Told]) -> Waiting:
    each = [one.model.admission for one in told if one.model.admission is not None]
    return Waiting(
        limit=sum(one.limit for one in each),
        inflight=sum(one.inflight for one in each),
        waiting=sum(sum(one.waiting.values()) for one in each),
    )


def _fallbacks(told: Iterable[_Told]) -> tuple[FallbackUse, ...]:
    """In the chain's order."""
    found: dict[tuple[str, str], FallbackUse] = {}
    for each in told:
        for one in each.model.fallback:
            before = found.get((one.type, one.name), FallbackUse(one.type, one.name))
            found[one.type, one.name] = FallbackUse(
                one.type, one.name, before.answered + one.answered, before.unusable + one.unusable
            )
    return tuple(found.values())


def _shadows(told: Iterable[_Told]) -> tuple[ShadowUse, ...]:
    found: dict[str, ShadowUse] = {}
    for each in told:
        for one in each.model.shadows:
            before = found.get(one.shadow, ShadowUse(one.shadow, 0.0))
            found[one.shadow] = ShadowUse(
                one.shadow,
                max(before.share, one.share),
                before.compared + one.compared_requests,
                before.agreed + one.agreed_requests,
                before.silent or one.silent,
                before.dropped + sum(one.dropped.values()),
            )
    return tuple(found.values())


def _canary_weight(told: Sequence[_Told]) -> dict[str, float]:
    """The share of the requests that each canary gets; gateways may differ for a moment."""
    weight: dict[str, float] = {}
    for each in told:
        canary = each.model.canary
        if canary is not None and canary.weight:
            weight[canary.version] = weight.get(canary.version, 0.0) + canary.weight / len(told)
    return {version: round(share, 4) for version, share in weight.items()}


def _role(version: str, told: Sequence[_Told], stable: str | None) -> Role:
    if not any(each.version(version) for each in told):
        return "unavailable"
    if version == stable:
        return "stable"
    canary = next((each.model.canary for each in told), None)
    return "canary" if canary is not None and canary.version == version and not canary.ended else "standby"


def _version(name: str, told: Sequence[_Told], *, role: Role, weight: dict[str, float], reason: str) -> VersionView:
    having = [(each, found) for each in told if (found := each.version(name)) is not None]
    if not having:
        return VersionView(version=name, role=role, reason=reason)
    versions = [found for _, found in having]
    return VersionView(
        version=name,
        role=role,
        weight=round(1.0 - sum(weight.values()), 4) if role == "stable" else weight.get(name, 0.0),
        digest=versions[0].digest,
        ready=(ready := all(found.ready for found in versions)),
        reason="" if ready else reason,
        breaker=_breaker([(each, found.breaker) for each, found in having]),
        replicas=_replicas(versions),
        waiting=sum(found.waiting for found in versions),
        inflight_batches=sum(found.inflight_batches for found in versions),
        attempts=dict(sorted(sum((Counter(found.attempts) for found in versions), Counter[str]()).items())),
    )


def _breaker(told: Sequence[tuple[_Told, BreakerHeard]]) -> BreakerView:
    """The worst one's state and reason; of several the one that changed last."""
    by, worst = max(told, key=lambda each: (_GRAVITY.index(_STATES[each[1].state]), each[1].since))
    return BreakerView(
        state=_STATES[worst.state],
        gateways={
            str(each.port): _STATES[breaker.state] for each, breaker in sorted(told, key=lambda one: one[0].port)
        },
        why=worst.why,
        since=round(worst.since, 3),
        retry_at=round(by.time + worst.retry_after_s, 3) if worst.state == "open" else None,
        opened=sum(breaker.opened for _, breaker in told),
    )


def _replicas(versions: Iterable[VersionHeard]) -> tuple[ReplicaView, ...]:
    told: dict[str, list[ReplicaHeard]] = {}
    for found in versions:
        for replica in found.replicas:
            told.setdefault(replica.id, []).append(replica)
    return tuple(
        ReplicaView(
            id=name,
            live=any(one.live for one in each),
            ejected=any(one.ejected for one in each),
            why=next((one.why for one in each if one.ejected), ""),
            pid=max(one.pid for one in each),
            ip=max(one.ip for one in each),
            outstanding=sum(one.outstanding for one in each),
        )
        for name, each in sorted(told.items())
    )


def _natural(version: str) -> tuple[object, ...]:
    """``v10`` comes after ``v9``."""
    digits = "".join(char if char.isdecimal() else " " for char in version).split()
    return (tuple(map(int, digits)), version)
