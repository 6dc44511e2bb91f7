"""What is done to replicas of models: they are killed, hang, and do what they are told to do wrong."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from loadtests.chaos import faults
from loadtests.chaos.blows import BACK_S, Blow, Done, Hand
from loadtests.chaos.schedule import one_of
from loadtests.chaos.world import MODEL, World
from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import kill
from loadtests.resilience.system import Replica

_LOOK_S: Final = 0.1


def _version(world: World, target: faults.Target) -> str:
    stable = world.scenario.system.stable if target.model == MODEL else "v1"
    return f"{target.model}@{target.version or stable}"


async def _victims(world: World, target: faults.Target, lot: float) -> list[Replica]:
    version = _version(world, target)
    found = await world.replicas(version)
    if not found:
        raise RunError(f"no replica of {version} is there")
    return found if target.which == "all" else [one_of(found, lot)]


def _named(version: str, victims: list[Replica]) -> str:
    return f"{version} {', '.join(victim.id for victim in victims)}"


async def kill_replica(blow: Blow[faults.KillReplica]) -> Done:
    world = blow.world
    victims = await _victims(world, blow.fault.target, blow.lot)
    version = _version(world, blow.fault.target)
    for victim in victims:
        kill(victim.pid)
    return await _replaced(world, version, victims)


async def crash_loop(blow: Blow[faults.CrashLoop]) -> Done:
    world = blow.world
    version = _version(world, blow.fault.target)
    until_s = world.now_s + blow.fault.lasts
    killed: set[int] = set()
    while world.now_s < until_s:
        for replica in await world.replicas(version):
            if replica.pid not in killed:
                killed.add(replica.pid)
                kill(replica.pid)
        await asyncio.sleep(_LOOK_S)
    if not killed:
        raise RunError(f"no replica of {version} was ever there")
    return Done(f"{version}, all replicas", f"{len(killed)} killed", world.now_s)


async def wedge_replica(blow: Blow[faults.WedgeReplica]) -> Done:
    world = blow.world
    victims = await _victims(world, blow.fault.target, blow.lot)
    version = _version(world, blow.fault.target)
    for victim in victims:
        if blow.fault.how == "stop":
            os.kill(victim.pid, signal.SIGSTOP)
        else:
            await world.command(version, victim.id, {"hang": blow.fault.how})
    try:
        return await _replaced(world, version, victims)
    finally:
        for victim in victims:
            if blow.fault.how == "stop":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGCONT)


async def _replaced(world: World, version: str, gone: list[Replica], *, within_s: float = BACK_S) -> Done:
    """Until there are as many others. Those that came are as busy as the scenario has it."""
    began_s = world.now_s
    ids = {replica.id for replica in gone}
    count = world.scenario.system.replicas if version == world.primary else len(gone)

    async def fresh() -> bool:
        found = {replica.id for replica in await world.replicas(version)}
        return len(found) >= count and not found & ids

    await world.system.until(fresh, f"others than {', '.join(sorted(ids))} serve {version}", within_s=within_s)
    back_s = world.now_s - began_s
    if world.busy() and version == world.primary:
        await world.command(version, "all", world.busy())
    return Done(_named(version, gone), f"replaced after {back_s:.1f} s", world.now_s, began_s, back_s)


async def leak(blow: Blow[faults.Leak]) -> Done:
    """Until there are others, if a limit of memory has them replaced; else until its time is over."""
    world, fault = blow.world, blow.fault
    version = _version(world, fault.target)
    victims = await _victims(world, fault.target, blow.lot)
    command = {"leak_kib_per_run": fault.kib} | (world.busy() if version == world.primary else {})
    for victim in victims:
        await world.command(version, victim.id, command)
    began_s = world.now_s
    try:
        async with asyncio.timeout(fault.lasts):
            done = await _replaced(world, version, victims, within_s=2 * fault.lasts + BACK_S)
    except TimeoutError:
        for victim in victims:
            with contextlib.suppress(RunError):
                await world.pardon(version, victim.id)
        return Done(_named(version, victims), f"{fault.kib} KiB a run, and nobody was replaced", world.now_s, began_s)
    done.detail = f"{fault.kib} KiB a run, {done.detail}"
    return done


def commanded(make: Callable[[Any], dict[str, Any]]) -> Hand:
    """A fault that replicas are told, and that ends when they are told so."""

    async def hand(blow: Blow[Any]) -> Done:
        world, fault, lot = blow.world, blow.fault, blow.lot
        version = _version(world, fault.target)
        victims = [] if fault.target.which == "all" else await _victims(world, fault.target, lot)
        whom = victims[0].id if victims else "all"
        command = make(fault) | {"seed": int(lot * 1000)}
        if version == world.primary:
            command |= {key: value + command.get(key, 0) for key, value in world.busy().items()}
        await world.command(version, whom, command)
        try:
            await asyncio.sleep(fault.lasts)
        finally:
            with contextlib.suppress(RunError):
                await world.pardon(version, whom)
        said = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in make(fault).items()
        )
        return Done(_named(version, victims) if victims else f"{version}, all replicas", said, world.now_s)

    return hand


def slowness(fault: faults.Slow) -> dict[str, Any]:
    found = {"slow_ms": fault.ms, "slow_ms_per_row": fault.ms_per_row, "slow_factor": fault.factor}
    return {key: value for key, value in found.items() if value and (key, value) != ("slow_factor", 1)}


def channel(kind: str) -> Hand:
    return commanded(lambda fault: {"channel": kind, "channel_rate": fault.rate})
