"""Scenarios in which one replica of the stable version is hurt, or all of them are."""

import asyncio

from loadtests.resilience.figures import Kind, percentile
from loadtests.resilience.processes import kill
from loadtests.resilience.scenario import BUSY_MS, PRIMARY, others_answer
from loadtests.resilience.stage import Stage
from loadtests.resilience.system import Replica
from loadtests.resilience.verdict import Demands

KILL_INTERVAL_S = 5.0


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
    return others_answer(stage, degraded_share=1.0 if last_ones else 0.0)


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
    if opened_s is not None:
        stage.note(f"every gateway's breaker open after {opened_s:.1f} s")
    stage.check(opened_s is not None, "not every gateway's breaker opened: the version goes on being asked in vain")
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
