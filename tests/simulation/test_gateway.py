"""Whatever happens, for thousands of seeds: what must always hold of a gateway.

A failure names its seed; `World(seed, ...)` plays it again, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from models.registry import Registry
from serving.request.deadline import SLOT_S
from serving.routing.split import lot
from tests.fakes import FakeClock, run
from tests.simulation.world import FACTORS, STATIC, Caller, Reign, World, make_store

SEEDS = 2000
BLOCK = 100
LATE_S = 2 * SLOT_S + 0.001
"""A deadline is noticed up to a slot of the wheel later, and a timer may be a little late."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_what_must_always_hold_holds_for_all_seeds(store: Registry, first: int) -> None:
    for seed in range(first, first + BLOCK):
        for fault in faults_of(seed, store):
            pytest.fail(f"seed {seed}: {fault}")


def faults_of(seed: int, store: Registry) -> Iterator[str]:
    clock = FakeClock()
    world = World(seed, clock, store)
    run(live_and_close(world), clock)
    for caller in world.callers:
        yield from wrong_with(caller, world)
    yield from wrong_with_counts(world)
    if len(world.records.outcomes) != len(world.callers):
        yield f"{len(world.callers)} requests, {len(world.records.outcomes)} outcomes"
    answered = sum(outcome in ("ok", "degraded") for outcome in world.records.outcomes)
    if answered != sum(caller.outcome == "answered" for caller in world.callers):
        yield "the outcomes aren't those that the callers saw"


async def live_and_close(world: World) -> None:
    await world.live(requests=world.rng.choices((10, 40, 150), (4, 5, 1))[0], seconds=3.0)
    left = list(left_over(world))
    await world.gateway.close()
    assert not left, left


def left_over(world: World) -> Iterator[str]:
    """What is still held when nothing is under way any more."""
    for plan in world.gateway.planner.models.values():
        admission = plan.admission
        if admission.inflight or any(admission.waiting.values()):
            yield f"{admission.name}: {admission.inflight} permits and {admission.waiting} waiting are left"
    for version in world.gateway.versions:
        if version.lane.waiting:
            yield f"{version.lane.name}: {version.lane.waiting} requests wait in the lane"
        stats = version.served.attempts.stats
        limits = world.gateway.settings_of(version.served.model).retry
        budget = min(10, limits.budget_max) + limits.budget_ratio * stats.outcomes["ok"]
        spent = stats.retries + stats.hedges
        if spent > budget + 1e-9:
            yield f"{version.lane.name}: {spent} further attempts on a budget of {budget}"
        if not limits.enabled and stats.retries:
            yield f"{version.lane.name}: {stats.retries} retries, though they are switched off"


def wrong_with(caller: Caller, world: World) -> Iterator[str]:
    late_s = caller.ended - caller.sent - caller.timeout_us * 1e-6
    if late_s > LATE_S:
        yield f"{caller} ended {late_s:.3f} s after its deadline"
    if not caller.outcome:
        yield f"{caller} never ended"
    if caller.outcome == "answered":
        yield from wrong_with_answer(caller, world)
    if caller.outcome == "internal":
        yield f"{caller} met a defect of ours"
    if world.calm and caller.version is None and not caller.nonsense:
        yield from wrong_in_calm(caller, world)


def wrong_with_answer(caller: Caller, world: World) -> Iterator[str]:
    name = f"{caller.body['model_name']}@{caller.body['model_version']}"
    (output,) = caller.body["outputs"]
    factor = FACTORS.get(name)
    expected = [STATIC if factor is None else value * factor for value in caller.values for _ in range(2)]
    if output["data"] != expected or any(math.isnan(value) for value in output["data"]):
        yield f"{caller} was answered {output['data']}, not {expected}"
    origin = caller.origin
    parameters = caller.body.get("parameters", {})
    if origin is None and name not in may_answer(caller, world):
        yield f"{caller} was answered by {name}, and nothing says that this is degraded"
    if origin is not None and parameters.get("degraded") != origin.kind:
        yield f"{caller} was answered by {origin}, and its body says {parameters}"
    if origin is not None and caller.version is not None:
        yield f"{caller} named a version and was answered by {origin}"
    if origin is not None and origin.kind == "cache" and "age_s" not in parameters:
        yield f"{caller} doesn't hear how old its answer is"
    if name == "m@v3" and world.withdrawn_at is not None and caller.sent > world.withdrawn_at + 0.001:
        yield f"{caller} got an answer of a version that had been taken back"


def may_answer(caller: Caller, world: World) -> set[str]:
    """Who may give this caller an ordinary answer: its canary only if the lot of its key says so."""
    if caller.model == "lite" or caller.version is not None:
        return {f"{caller.model}@{caller.version or 'v1'}"}
    names: set[str] = set()
    for reign in world.reigns_within(caller.sent, caller.ended):
        names.add(f"m@{reign.stable}")
        if reign.canary is not None and drawn(caller, reign) < reign.weight:
            names.add(f"m@{reign.canary}")
    return names


def drawn(caller: Caller, reign: Reign) -> float:
    """What the caller's key draws; without one it may be anything."""
    return 0.0 if caller.sticky_key is None else lot(caller.sticky_key.encode(), reign.epoch)


def wrong_in_calm(caller: Caller, world: World) -> Iterator[str]:
    """Where only the canary fails, nobody sees anything of that."""
    if caller.outcome not in ("answered", "cancelled") or caller.origin is not None:
        yield f"{caller} pays for a bad canary"
    reigns = world.reigns_within(caller.sent, caller.ended)
    for_the_canary = all(reign.canary is not None and drawn(caller, reign) < reign.weight for reign in reigns)
    for_the_canary &= caller.model == "m" and caller.sticky_key is not None and not world.canary_is_bad
    if caller.outcome == "answered" and for_the_canary and caller.body["model_version"] != "v3":
        yield f"{caller} was meant for the canary, which is well, and got {caller.body['model_version']}"


def wrong_with_counts(world: World) -> Iterator[str]:
    """Each request that was thrown is counted once, at most; all of them, if there was a canary all of the time."""
    attempts = 0
    for outcomes in world.collected.values():
        for at in outcomes.weights:
            for counted in (at.canary, at.stable):
                attempts += counted.attempts
                if counted.slow + counted.invalid > counted.bad or counted.bad + counted.repeated > counted.attempts:
                    yield f"{outcomes.epoch} at {at.weight}: {counted} contradicts itself"
            if at.weight == 1.0 and at.stable.attempts:
                yield f"{outcomes.epoch}: stable had {at.stable} of what was all the canary's"
        well = world.calm and not world.canary_is_bad and world.withdrawn_at is None
        if well and any(at.canary.bad > at.canary.slow for at in outcomes.weights):
            yield f"{outcomes.epoch}: a canary that is well was found failing, {outcomes.weights}"
        if len({key.mark for key in outcomes.bad_keys}) != outcomes.next_key:
            yield f"{outcomes.epoch}: a key was counted twice"
    unpinned = [c for c in world.callers if c.model == "m" and c.version is None and not c.nonsense]
    ended = sum(caller.outcome != "cancelled" for caller in unpinned)
    if attempts > len(unpinned):
        yield f"{attempts} first attempts of {len(unpinned)} requests"
    if world.rollout == "grows" and attempts < ended:
        yield f"only {attempts} first attempts of {ended} requests"
