"""Scenarios in which a version is bad and has to be taken back, without a person and without a client who sees it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import percentile
from loadtests.resilience.load import Load
from loadtests.resilience.processes import kill
from loadtests.rollouts.files import MODEL, PRIOR, SLOW_OBJECTIVE_MS, rollout_file
from loadtests.rollouts.history import kind
from loadtests.rollouts.rollback import went_back
from loadtests.rollouts.stage import Stage
from loadtests.rollouts.store import GOLDEN_BROKEN

_LOOK_S: Final = 0.1
_ANSWERS_S: Final = 10.0


async def _bad(stage: Stage, version: str, *, analysis: Mapping[str, Any] | None = None, answered: bool = True) -> None:
    """A rollout of a version that is bad by itself."""
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(version, analysis=analysis))
        await stage.until_over()
        await stage.rest()
    stage.unharmed()
    stage.nothing_twice(await went_back(stage, version, answered=answered))
    _evidence(stage)


def _evidence(stage: Stage) -> None:
    if stage.report is None:
        return
    evidence = stage.report["evidence"]
    for variant in ("canary", "stable"):
        counts = evidence[variant]
        kinds = ", ".join(f"{counts[what]} {what}" for what in ("slow", "invalid") if counts.get(what))
        more = f" ({kinds})" if kinds else ""
        stage.note(f"{variant}: {counts['bad']} of {counts['attempts']} first attempts bad{more}")


async def fails_30(stage: Stage) -> None:
    """Raises on 30 of 100 images."""
    await _bad(stage, "fails-30")


async def slow_10x(stage: Stage) -> None:
    """Takes more than ten times as long."""
    await _bad(stage, "slow-10x", analysis={"latencyObjective": f"{SLOW_OBJECTIVE_MS}ms"})
    took = {
        version: percentile([sample.took_s for sample in stage.samples if sample.by == f"{MODEL}@{version}"], 0.5)
        for version in (PRIOR, "slow-10x")
    }
    times = took["slow-10x"] / took[PRIOR]
    stage.promise(
        times >= 10, f"p50 of its answers {took['slow-10x'] * 1000:.1f} ms, {times:.0f} times that of {PRIOR}"
    )


async def nan_50(stage: Stage) -> None:
    """Answers NaN to every other image."""
    await _bad(stage, "nan-50")


async def golden_fails(stage: Stage) -> None:
    """Doesn't answer its golden examples as it promised: never gets a request."""
    await _bad(stage, GOLDEN_BROKEN, answered=False)


async def crash_loop(stage: Stage) -> None:
    """Each of its replicas dies as soon as it has had requests."""
    version = "crashes"
    async with stage.traffic() as load:
        await stage.calm()
        await stage.start(rollout_file(version))
        await stage.until_weight(5)
        await _has_answered(load, f"{MODEL}@{version}")
        async with _killing(stage, f"{MODEL}@{version}") as killed:
            await stage.until_over()
        await stage.rest()
    stage.note(f"{len(killed)} of its replicas were killed")
    stage.unharmed()
    stage.nothing_twice(await went_back(stage, version))
    _evidence(stage)


async def _has_answered(load: Load, name: str) -> None:
    try:
        async with asyncio.timeout(_ANSWERS_S):
            while not any(sample.by == name for sample in load.samples):  # noqa: ASYNC110  # a load has no event for that
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise RunError(f"{name} hasn't answered within {_ANSWERS_S:g} s") from None


@contextlib.asynccontextmanager
async def _killing(stage: Stage, name: str) -> AsyncIterator[set[int]]:
    """Ends every replica of this version that is there or comes, until the block is left."""
    killed: set[int] = set()

    async def go_on() -> None:
        while True:
            for replica in await stage.system.replicas(name):
                if replica.pid not in killed:
                    killed.add(replica.pid)
                    kill(replica.pid)
            await asyncio.sleep(_LOOK_S)

    task = asyncio.get_running_loop().create_task(go_on())
    try:
        yield killed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def bad_in_the_bake(stage: Stage) -> None:
    """Good until it has all requests, and bad from then on."""
    version = "late"
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(version))
        await stage.until_phase("Baking")
        await asyncio.sleep(1.0)
        await stage.fault(version, fail_rate=0.5, seed=3)
        await stage.until_over()
        await stage.rest()
    stage.unharmed()
    events = await went_back(stage, version)
    kinds = [kind(event) for event in events]
    promoted = "PublishPromotion" in kinds and kinds.index("PublishPromotion") < kinds.index("RollBackNow")
    stage.promise(promoted, "it was promoted before")
    stage.nothing_twice(events)
    _evidence(stage)
