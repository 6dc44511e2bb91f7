"""What is done to the processes around the models: gateways, HAProxy, both controllers, and all of it."""

import asyncio
import os
import signal
from typing import Final

from loadtests.chaos import faults
from loadtests.chaos.blows import BACK_S, Blow, Done, soon
from loadtests.chaos.schedule import one_of
from loadtests.chaos.world import World
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import kill
from loadtests.rollouts.verdict import Promise

SERVE_CONTROLLER_TITLE: Final = "ray::ServeController"


async def kill_gateway(blow: Blow[faults.KillGateway]) -> Done:
    found = await blow.world.system.gateways()
    victims = found if blow.fault.which == "all" else [one_of(found, blow.lot)]
    for victim in victims:
        kill(victim)
    return await _gateways_back(blow.world, victims)


async def drain_gateway(blow: Blow[faults.DrainGateway]) -> Done:
    victim = one_of(await blow.world.system.gateways(), blow.lot)
    os.kill(victim, signal.SIGTERM)
    return await _gateways_back(blow.world, [victim])


async def rolling_restart(blow: Blow[faults.RollingRestart]) -> Done:
    world = blow.world
    old = await world.system.gateways()
    await world.system.ask("POST", "/v2/holdfast/gateways/restart", {}, timeout_s=60)
    return await _gateways_back(world, old)


async def _gateways_back(world: World, gone: list[int]) -> Done:
    began_s = world.now_s
    count = world.system.gateway_count

    async def back() -> bool:
        pids = await world.system.gateways()
        return len(pids) == count and not set(gone) & set(pids) and len(await world.system.accepting()) == count

    await world.system.until(back, f"{count} gateways take requests", within_s=2 * BACK_S)
    back_s = world.now_s - began_s
    target = f"gateway {', '.join(map(str, gone))}"
    return Done(target, f"all gateways take requests after {back_s:.1f} s", world.now_s, began_s, back_s)


async def kill_haproxy(blow: Blow[faults.KillHaproxy]) -> Done:
    world = blow.world
    victims = await world.system.titled(lambda command: "/haproxy " in f"{command} ")
    if not victims:
        raise RunError("there is no HAProxy")
    began_s = world.now_s
    for victim in victims:
        kill(victim)

    async def answers() -> bool:
        try:
            status, _ = await world.system.pool.ask("GET", "/v2/health/live", timeout_s=2.0)
        except NoReply:
            return False
        return status == 200

    await soon(answers, "HAProxy answers again")
    back_s = world.now_s - began_s
    return Done(
        f"haproxy {', '.join(map(str, victims))}", f"answers after {back_s:.2f} s", world.now_s, began_s, back_s
    )


async def kill_control(blow: Blow[faults.KillControl]) -> Done:
    world = blow.world
    pid = await world.rollouts.pid()
    began_s = world.now_s
    kill(pid)
    await world.rollouts.until_controller(
        "another control plane writes", lambda one: one["pid"] != pid and one["state"] == "writing", within_s=BACK_S
    )
    back_s = world.now_s - began_s
    return Done(f"control plane {pid}", f"another one writes after {back_s:.1f} s", world.now_s, began_s, back_s)


async def kill_serve_controller(blow: Blow[faults.KillServeController]) -> Done:
    world = blow.world

    def is_it(command: str) -> bool:
        return command.startswith(SERVE_CONTROLLER_TITLE)

    victims = await world.system.titled(is_it)
    if not victims:
        raise RunError("there is no Serve controller")
    began_s = world.now_s
    for victim in victims:
        kill(victim)

    async def back() -> bool:
        found = await world.system.titled(is_it)
        return bool(found) and not set(found) & set(victims)

    await soon(back, "another Serve controller is there")
    back_s = world.now_s - began_s
    return Done(f"Serve controller {victims[0]}", f"another one after {back_s:.1f} s", world.now_s, began_s, back_s)


async def kill_node(blow: Blow[faults.KillNode]) -> Done:
    """Requests are answered meanwhile; a replacement serves when the next node has come."""
    world = blow.world
    nodes = world.system.nodes
    if nodes is None:
        raise RunError("there is one node")
    began_s = world.now_s
    gone = await asyncio.to_thread(nodes.lose, blow.lot)
    await asyncio.sleep(blow.fault.away)
    came = await asyncio.to_thread(nodes.add)
    up_s = world.now_s

    async def back() -> bool:
        return came in await world.system.places(world.primary) and await world.system.whole()

    await world.system.until(back, f"every replica is there again, one of them on {came}", within_s=2 * BACK_S)
    back_s = world.now_s - up_s  # how long Ray takes to start a node is the machine's affair
    detail = f"another one, {came}, was up after {up_s - began_s:.1f} s, all replicas were there {back_s:.1f} s later"
    return Done(f"node {gone}", detail, world.now_s, began_s, back_s)


async def restart_everything(blow: Blow[faults.RestartEverything]) -> Done:
    """What was true before must be true again: the rollout, and what the cache holds."""
    world = blow.world
    began_s = world.now_s
    before, cached = await world.rollouts.report(), await _cached(world)
    complaints = await world.system.stop()
    down_s = world.now_s
    await world.system.start()
    up_s = world.now_s
    if world.busy():
        await world.command(world.primary, "all", world.busy())
    promises = [Promise(not complaints, "; ".join(complaints) or "it ended in good order")]
    after, again = await world.rollouts.report(), await _cached(world)
    kept = min(cached, again)
    promises.append(Promise(again >= cached, f"{kept} of {cached} cached predictions are there again"))
    if before is not None:
        same = after is not None and after["rollout"] == before["rollout"]
        where = "gone" if after is None else f"{after['phase']} at {after['weight']} %"
        forward = same and after is not None and after["weight"] >= before["weight"]
        promises.append(Promise(forward, f"the rollout was {before['phase']} at {before['weight']} %, and is {where}"))
    detail = f"down after {down_s - began_s:.1f} s, whole {up_s - down_s:.1f} s later"
    return Done("everything", detail, world.now_s, began_s, up_s - began_s, excused=True, promises=tuple(promises))


async def _cached(world: World) -> int:
    statuses = await world.system.status()
    return max((int((status.get("cache") or {}).get("entries", 0)) for status in statuses), default=0)
