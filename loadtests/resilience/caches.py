"""Scenarios of the cached predictions: their Redis is hurt, and nothing but them is left."""

import asyncio

from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind, Sample, percentile
from loadtests.resilience.scenario import PRIMARY
from loadtests.resilience.stage import REPEATED, Stage
from loadtests.resilience.verdict import Demands

UNSEEN = range(1000, 1200)
"""Inputs that nobody asked before."""
AFTER_A_RESTART = REPEATED[:100]


async def redis_killed_and_slow(stage: Stage) -> Demands:
    """The shared cache dies, comes back, and answers late: nobody may notice."""
    redis, proxy = stage.redis, stage.proxy
    if redis is None or proxy is None:
        raise RunError("there is no Redis here")
    async with stage.traffic():
        await stage.calm()
        await asyncio.sleep(1)
        keys = await redis.keys()
        stage.hit()
        redis.kill()
        part_s = max(2.5, (stage.pace.seconds - stage.now_s) / 3)
        await asyncio.sleep(part_s)
        await redis.start()
        stage.hit()
        proxy.delay_s = 2.0
        await asyncio.sleep(part_s)
        proxy.delay_s = 0.0
        await stage.overcome()
        await stage.rest()
        again = await redis.keys()
    stage.note(f"{keys} predictions in Redis before it was killed, {again} in the new one at the end")
    stage.check(keys > 0, "Redis held no prediction: it isn't used")
    return Demands(degraded_share=0.0, recover_within_s=stage.pace.patience_s)


async def everything_unloaded(stage: Stage) -> Demands:
    """Neither the model nor what stands in for it is there; after that everything is restarted."""
    async with stage.traffic(stable=(PRIMARY, "digits@v1")) as load:
        await stage.calm()
        await asyncio.sleep(3)  # every input at least twice, and time to be written
        stage.hit(overcome=False)
        await _unload_all(stage)
        unloaded_s = stage.now_s
        async with stage.traffic(images=UNSEEN, rate=20) as unseen:
            await asyncio.sleep(max(3.0, stage.pace.seconds - stage.now_s))
        _check_repeated(stage, [sample for sample in load.samples if sample.due_s > unloaded_s], "")
        _check_unseen(stage, unseen.samples)
    if stage.pace.restarts:
        await _restarted(stage)
    return Demands(client_errors=True)


async def _restarted(stage: Stage) -> None:
    """All of it ends and starts again: what was cached before is there."""
    for complaint in await stage.system.stop():
        stage.check(False, complaint)
    await stage.system.start()
    await _unload_all(stage)
    async with stage.traffic(rate=50, images=AFTER_A_RESTART) as load, stage.traffic(images=UNSEEN, rate=10) as unseen:
        await asyncio.sleep(2)
    _check_repeated(stage, load.samples, " after a restart")
    _check_unseen(stage, unseen.samples)


async def _unload_all(stage: Stage) -> None:
    await stage.system.ask("POST", "/v2/repository/models/digits/unload", {}, timeout_s=60)
    await stage.system.ask("POST", "/v2/repository/models/digits-lite/unload", {}, timeout_s=60)


def _check_repeated(stage: Stage, samples: list[Sample], when: str) -> None:
    cached = [sample for sample in samples if sample.kind is Kind.DEGRADED and sample.note == "cache"]
    stage.note(f"from the cache{when}: {len(cached)} of {len(samples)} repeated inputs, {_took(cached)}")
    stage.check(
        bool(samples) and len(cached) == len(samples),
        f"only {len(cached)} of {len(samples)} repeated inputs were answered from the cache{when}",
    )
    _check_quick(stage, samples, f"repeated inputs{when}")


def _check_unseen(stage: Stage, samples: list[Sample]) -> None:
    static = [sample for sample in samples if sample.kind is Kind.DEGRADED and sample.note == "static"]
    refused = [sample for sample in samples if sample.kind is Kind.FAILED and sample.note == "503"]
    stage.note(f"other inputs: {len(static)} static, {len(refused)} refused with 503, {_took(samples)}")
    stage.check(
        bool(samples) and len(static) + len(refused) == len(samples),
        f"{len(samples) - len(static) - len(refused)} other inputs got neither a static answer nor a 503",
    )
    _check_quick(stage, samples, "other inputs")


def _check_quick(stage: Stage, samples: list[Sample], what: str) -> None:
    slow = percentile([sample.took_s for sample in samples], 0.99)
    stage.check(slow <= stage.pace.quick_s, f"p99 of {what} is {slow * 1000:.0f} ms without any model to wait for")


def _took(samples: list[Sample]) -> str:
    if not samples:
        return "-"
    took = [sample.took_s * 1000 for sample in samples]
    return f"p50 {percentile(took, 0.5):.1f} ms, p99 {percentile(took, 0.99):.1f} ms"
