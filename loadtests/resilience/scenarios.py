"""The scenarios: what is done to the system while the load goes on, and what must hold then."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind, Sample, percentile
from loadtests.resilience.stage import Stage
from loadtests.resilience.system import GATEWAYS, Replica, kill
from loadtests.resilience.verdict import Demands

PRIMARY = "digits@v2"
KILL_INTERVAL_S = 5.0
BUSY_MS = 40
"""So long a run takes where a fault shall hit requests under way: without it hardly any would be, and one replica
would do nearly all of the work."""
RESENT_BYTES = 24 << 10
"""A body as large as Holdfast promises to send again, almost."""
MOSTLY_FRESH = 0.02
"""More degraded answers mean that a fallback did what another replica should have done."""

Run = Callable[[Stage], Awaitable[Demands]]


class Scenario(NamedTuple):
    name: str
    setup: str
    """Which system it needs, see `setups.py`."""
    run: Run


def others_answer(stage: Stage, *met_by: str, degraded_share: float = MOSTLY_FRESH) -> Demands:
    """What is asked where one of several is hurt, and attempts end in one of these ways."""
    return Demands(degraded_share=degraded_share, recover_within_s=stage.pace.patience_s, met_by=met_by)


async def replica_killed_every_5s(stage: Stage) -> Demands:
    """SIGKILL to one of two replicas, again and again."""
    last_ones = 0
    slowest_s = 0.0
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic():
        await stage.calm()
        while stage.now_s < stage.pace.seconds - KILL_INTERVAL_S / 2 or not stage.faults_s:
            begun_s = stage.now_s
            await stage.fault(PRIMARY, slow_ms=BUSY_MS)  # also those that came since
            await stage.pause(0.1, 0.3)
            alive = await stage.system.replicas(PRIMARY)
            victim = await stage.some_replica(PRIMARY)
            last_ones += len(alive) == 1
            stage.hit()
            kill(victim.pid)
            slowest_s = max(slowest_s, await stage.replaced(PRIMARY, [victim], count=2))
            await asyncio.sleep(max(0.0, begun_s + KILL_INTERVAL_S - stage.now_s))
        await stage.pardon()
        await stage.overcome()
    stage.note(f"{len(stage.faults_s)} killed")
    stage.within("a serving replacement", slowest_s, stage.pace.replaced_s)
    if last_ones:
        stage.note(f"{last_ones} of them while there was no other replica")
    return others_answer(stage, degraded_share=1.0 if last_ones else MOSTLY_FRESH)


async def all_primary_killed(stage: Stage) -> Demands:
    """SIGKILL to every replica of the stable version at once."""
    async with stage.traffic():
        await stage.calm()
        await stage.pause(0, 1)
        victims = await stage.system.replicas(PRIMARY)
        stage.hit()
        for victim in victims:
            kill(victim.pid)
        seconds = await stage.replaced(PRIMARY, victims, count=len(victims))
        await stage.overcome()
        await stage.rest()
    stage.within(f"{len(victims)} serving replacements", seconds, 2 * stage.pace.replaced_s)
    return Demands(degraded_at_least=1, recover_within_s=stage.pace.patience_s)


async def _wedged(stage: Stage, hang: str) -> Demands:
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic():
        await stage.calm()
        await stage.pause(0, 1)
        victim = await stage.some_replica(PRIMARY)
        stage.hit()
        await stage.fault(PRIMARY, victim.id, hang=hang)
        seconds = await stage.replaced(PRIMARY, [victim], count=2)
        await stage.overcome()
        await stage.rest()
    stage.within("replaced", seconds, stage.pace.unwedged_s)
    return others_answer(stage, "attempt_timeout", "replica_lost", degraded_share=0.05)


async def replica_wedged_model(stage: Stage) -> Demands:
    """The model of one replica never returns; its loop lives."""
    return await _wedged(stage, "model")


async def replica_wedged_loop(stage: Stage) -> Demands:
    """One replica's event loop hangs, and with it everything."""
    return await _wedged(stage, "loop")


async def all_primary_wedged(stage: Stage) -> Demands:
    """The model of every replica of the stable version never returns."""
    async with stage.traffic():
        await stage.calm()
        victims = await stage.system.replicas(PRIMARY)
        stage.hit()
        await stage.fault(PRIMARY, hang="model")
        seconds = await stage.replaced(PRIMARY, victims, count=len(victims))
        await stage.overcome()
        await stage.rest()
    stage.within("all replaced", seconds, 2 * stage.pace.unwedged_s)
    return Demands(degraded_at_least=1, recover_within_s=stage.pace.patience_s)


TOO_SLOW_MS = 4000
"""Slower than any attempt may be, but not so slow that the replica is taken for hung and ended."""
FOUND_OUT_S = 4.0
"""By then everyone knows that the version is of no use: nobody may wait for it any more."""
AT_ONCE_S = 0.5


async def all_primary_too_slow(stage: Stage) -> Demands:
    """Every replica of the stable version takes seconds for everything, and none stands out."""
    lasts_s = max(2 * FOUND_OUT_S, stage.pace.seconds / 3)
    async with stage.traffic() as load:
        await stage.calm()
        stage.hit()
        await stage.fault(PRIMARY, slow_ms=TOO_SLOW_MS)
        begun_s = stage.now_s
        opened_s = await _all_open(stage, within_s=lasts_s)
        await asyncio.sleep(max(0.0, begun_s + lasts_s - stage.now_s))
        await stage.pardon()
        ended_s = stage.now_s
        await stage.overcome()
        await stage.rest()
    stage.note("no breaker opened" if opened_s is None else f"every gateway's breaker open after {opened_s:.1f} s")
    late = [
        sample.took_s
        for sample in load.samples
        if begun_s + FOUND_OUT_S <= sample.due_s < ended_s and sample.kind in (Kind.OK, Kind.DEGRADED)
    ]
    stage.note(
        f"slow for {lasts_s:.0f} s; answers to what was due from {FOUND_OUT_S:g} s on: "
        f"p50 {percentile(late, 0.5) * 1000:.0f} ms ({len(late)})"
    )
    stage.check(
        not late or percentile(late, 0.5) < AT_ONCE_S,
        f"answers take {percentile(late, 0.5):.1f} s (p50): everyone waits for a version that is known to be too slow",
    )
    return Demands(degraded_at_least=1, recover_within_s=lasts_s + stage.pace.patience_s, met_by=("attempt_timeout",))


async def _all_open(stage: Stage, *, within_s: float) -> float | None:
    """Seconds until no gateway's breaker of the stable version is closed; None if that doesn't happen."""
    model, _, version = PRIMARY.partition("@")
    begun_s = stage.now_s
    while stage.now_s - begun_s < within_s:
        seen = [
            status["models"][model]["versions"][version]["breaker"]["state"] for status in await stage.system.status()
        ]
        if seen and "closed" not in seen:
            return stage.now_s - begun_s
        await asyncio.sleep(0.2)
    return None


async def gateway_killed(stage: Stage) -> Demands:
    """SIGKILL to one gateway, and when it is back to the other one, each with requests in it."""
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic(body_bytes=RESENT_BYTES):
        await stage.calm()
        slowest_s = 0.0
        for victim in await stage.system.gateways():
            await stage.pause(0, 1)
            stage.hit()
            kill(victim)
            slowest_s = max(slowest_s, await _gateways_back(stage, {victim}))
            await stage.overcome()
        await stage.rest()
    stage.note(f"both gateways there again after at most {slowest_s:.1f} s")
    return others_answer(stage)


async def gateway_rolling_restart(stage: Stage) -> Demands:
    """All gateways are replaced in good order, with requests in them."""
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic(body_bytes=RESENT_BYTES):
        await stage.calm()
        await stage.pause(0, 1)
        old = set(await stage.system.gateways())
        stage.hit()
        await stage.system.ask("POST", "/v2/holdfast/gateways/restart", {}, timeout_s=120.0)
        seconds = await _gateways_back(stage, old)
        await stage.system.until(
            lambda: _restart_done(stage), "the restart says that it is done", within_s=stage.pace.patience_s
        )
        await stage.overcome()
        await stage.rest()
    stage.note(f"all replaced after {seconds:.1f} s")
    return others_answer(stage)


async def _restart_done(stage: Stage) -> bool:
    restart = (await stage.system.ask("GET", "/v2/holdfast/gateways"))["restart"]
    if restart["state"] == "failed":
        raise RunError(f"the restart failed: {restart['reason']}")
    return bool(restart["state"] == "done")


async def _gateways_back(stage: Stage, gone: set[int]) -> float:
    """Seconds until all gateways take requests, and none is one of those that shall be gone."""

    async def back() -> bool:
        pids = await stage.system.gateways()
        return len(pids) == GATEWAYS and not gone & set(pids) and len(await stage.system.accepting()) == GATEWAYS

    return await stage.system.until(back, f"{GATEWAYS} gateways take requests", within_s=stage.pace.patience_s + 60)


async def one_of_three_fails(stage: Stage) -> Demands:
    """One replica raises on everything; its siblings go on."""
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic():
        await stage.calm()
        await stage.pause(0, 1)
        victim = await stage.some_replica(PRIMARY)
        stage.hit()
        await stage.fault(PRIMARY, victim.id, slow_ms=BUSY_MS, fail_rate=1.0)
        await stage.overcome()
        await stage.rest()
        await _ended_for_it(stage, victim)
    return others_answer(stage, "model_failed")


async def one_of_three_slow_10x(stage: Stage) -> Demands:
    """One replica takes ten times as long as its siblings."""
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic():
        await stage.calm()
        await stage.pause(0, 1)
        victim = await stage.some_replica(PRIMARY)
        stage.hit()
        await stage.fault(PRIMARY, victim.id, slow_ms=10 * BUSY_MS)
        await stage.overcome()
        await stage.rest()
        await _ended_for_it(stage, victim)
    return others_answer(stage)


async def replica_nan_half(stage: Stage) -> Demands:
    """One replica answers NaN half the time."""
    await stage.fault(PRIMARY, slow_ms=BUSY_MS)
    async with stage.traffic():
        await stage.calm()
        await stage.pause(0, 1)
        victim = await stage.some_replica(PRIMARY)
        stage.hit()
        seed = stage.rng.randrange(1000)
        await stage.fault(PRIMARY, victim.id, slow_ms=BUSY_MS, nan_rate=0.5, seed=seed)
        await stage.overcome()
        await stage.rest()
        await _ended_for_it(stage, victim)
    return others_answer(stage, "invalid_answer", degraded_share=0.1)


async def _ended_for_it(stage: Stage, victim: Replica) -> None:
    """Note what became of a replica that misbehaved all the time."""
    left = {replica.id for replica in await stage.system.replicas(PRIMARY)}
    stage.note("the replica goes on misbehaving" if victim.id in left else "the replica was replaced meanwhile")


async def _channel(stage: Stage, kind: str) -> Demands:
    lasts_s = 4.0 if stage.pace.seconds >= 30 else 1.5
    async with stage.traffic():
        await stage.calm()
        await stage.pause(0, 1)
        stage.hit()
        await stage.fault(PRIMARY, channel=kind, for_s=lasts_s)
        await asyncio.sleep(lasts_s)
        await stage.overcome()
        await stage.rest()
    stage.note(f"every frame to any replica for {lasts_s:g} s")
    return Demands(recover_within_s=stage.pace.patience_s, met_by=("replica_lost",))


async def channel_cut(stage: Stage) -> Demands:
    """Every connection to the stable version's replicas breaks as soon as it carries work."""
    return await _channel(stage, "cut")


async def channel_garbled(stage: Stage) -> Demands:
    """Every connection to the stable version's replicas carries rubbish."""
    return await _channel(stage, "garble")


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


UNSEEN = range(1000, 1200)


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
    for complaint in await stage.system.stop():
        stage.check(False, complaint)
    await stage.system.start()
    await _unload_all(stage)
    async with stage.traffic(rate=50, images=REPEATED_ONCE) as load, stage.traffic(images=UNSEEN, rate=10) as unseen:
        await asyncio.sleep(2)
    _check_repeated(stage, load.samples, " after a restart")
    _check_unseen(stage, unseen.samples)
    return Demands(client_errors=True)


REPEATED_ONCE = range(100)


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
