"""Whatever happens, for thousands of seeds: what must always hold of a gateway.

A failure names its seed; `World(seed, ...)` plays it again, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from models.registry import Registry
from serving.request.deadline import SLOT_S
from tests.fakes import FakeClock, run
from tests.simulation.world import FACTORS, STATIC, Caller, World, make_store

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
        yield from wrong_with(caller, moving=world.versions_move)
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


def wrong_with(caller: Caller, *, moving: bool) -> Iterator[str]:
    late_s = caller.ended - caller.sent - caller.timeout_us * 1e-6
    if late_s > LATE_S:
        yield f"{caller} ended {late_s:.3f} s after its deadline"
    if not caller.outcome:
        yield f"{caller} never ended"
    if caller.outcome == "answered":
        yield from wrong_with_answer(caller, moving=moving)
    if caller.outcome == "internal":
        yield f"{caller} met a defect of ours"


def wrong_with_answer(caller: Caller, *, moving: bool) -> Iterator[str]:
    """``moving``: v1 may have been the stable version for a while."""
    name = f"{caller.body['model_name']}@{caller.body['model_version']}"
    (output,) = caller.body["outputs"]
    factor = FACTORS.get(name)
    expected = [STATIC if factor is None else value * factor for value in caller.values for _ in range(2)]
    if output["data"] != expected or any(math.isnan(value) for value in output["data"]):
        yield f"{caller} was answered {output['data']}, not {expected}"
    asked = f"{caller.model}@{caller.version or {'m': 'v2', 'lite': 'v1'}[caller.model]}"
    origin = caller.origin
    parameters = caller.body.get("parameters", {})
    moved = moving and caller.version is None and name == "m@v1"
    if origin is None and name != asked and not moved:
        yield f"{caller} was answered by {name}, and nothing says that this is degraded"
    if origin is not None and parameters.get("degraded") != origin.kind:
        yield f"{caller} was answered by {origin}, and its body says {parameters}"
    if origin is not None and caller.version is not None:
        yield f"{caller} named a version and was answered by {origin}"
    if origin is not None and origin.kind == "cache" and "age_s" not in parameters:
        yield f"{caller} doesn't hear how old its answer is"
