"""What the routing table says of a model, and which versions must run, where its last rollout stands. Pure.

What a decision asks for counts from when it was made, whether or not gateways know it yet. So to carry out an effect is
to bring the table to what is said here, and doing that again changes nothing. Not here: doing it
(``serving.rollout.effects``).
"""

from __future__ import annotations

from typing import NamedTuple

from serving.rollout.desired import DesiredState
from serving.rollout.events import PublishPromotion, SetWeight
from serving.rollout.spec import seconds
from serving.rollout.state import Phase, RolloutState
from serving.routing.table import Mirrored, ModelRoute, RoutingTable, Split

_BACK = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.ABORTED})
_NOT_READY = frozenset({Phase.PENDING, Phase.STARTING})


class Standing(NamedTuple):
    """One model: ``needed`` of the two ``versions`` of its rollout must run. ``mirror`` and ``split`` are the canary's.

    In the bake the canary has all requests by a split, and the prior version is still the stable one: what the canary
    can't answer, that does.
    """

    stable: str
    needed: tuple[str, ...]
    versions: tuple[str, str]
    split: Split | None = None
    mirror: Mirrored | None = None
    settled: bool = False

    def gives_way_to(self, named: str | None) -> bool:
        """Whether the version that the settings call stable counts for more: one that the rollout knew nothing of."""
        return self.settled and named is not None and named not in self.versions


def standing(state: RolloutState) -> Standing:
    """Where the model of a rollout stands."""
    spec, prior = state.spec, state.prior
    versions = (prior, spec.version)
    if state.phase is Phase.SUCCEEDED:
        return Standing(spec.version, (spec.version,), versions, settled=state.settled)
    if state.phase in _BACK or state.phase in _NOT_READY:
        return Standing(prior, (prior,), versions, settled=state.settled)
    weight = _weight(state)
    mirror = None
    if (rule := spec.analysis.shadow) is not None and weight < 100:
        mirror = Mirrored(spec.version, rule.share)
    return Standing(prior, versions, versions, _split(state, weight) if weight else None, mirror)


def standings(desired: DesiredState) -> dict[str, Standing]:
    """Of every model that ever had a rollout."""
    return {model: standing(state) for model, state in desired.rollouts.items()}


def arranged(table: RoutingTable, model: str, where: Standing) -> RoutingTable:
    """The table in which the model stands there; the same one if it does already.

    Raises ``ModelNotFound`` if the stable version isn't served, ``ValueError`` if the canary isn't.
    """
    table.resolve(model, where.stable)
    route = table.models[model]
    wanted = ModelRoute(where.stable, route.versions, where.mirror, where.split)
    return table if wanted == route else table.with_route(model, wanted)


def _weight(state: RolloutState) -> int:
    """The percent that the last decision on it asked for."""
    if isinstance(state.open, SetWeight):
        return state.open.weight
    return 100 if isinstance(state.open, PublishPromotion) or state.phase is Phase.PROMOTING else state.weight


def _split(state: RolloutState, weight: int) -> Split:
    spec = state.spec
    objective = spec.analysis.latency_objective
    return Split(
        version=spec.version,
        weight=weight / 100,
        epoch=state.rollout,
        stickiness=spec.stickiness,
        objective_s=None if objective is None else seconds(objective),
    )


def held_by(desired: DesiredState, model: str) -> str:
    """Why nobody may load or unload versions of the model by hand now; nothing if anybody may."""
    state = desired.rollouts.get(model)
    if state is None or state.settled:
        return ""
    return (
        f"{state.rollout} ({state.prior} to {state.spec.version}) of '{model}' is {state.phase.value}: wait until it "
        f"ends, or end it with `holdfast rollout abort {model}`"
    )
