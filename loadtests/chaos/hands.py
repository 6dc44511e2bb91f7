"""The doing of every fault: what it does to the system, to whom, and how long it took until that was made good.

Only processes of the system under test are hurt, by pid. Not here: when (`schedule.py`), by which clients (`crowds.py`).
"""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.chaos import crowds, faults
from loadtests.chaos.schedule import one_of
from loadtests.chaos.world import MODEL, World
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import kill
from loadtests.resilience.system import Replica
from loadtests.rollouts.verdict import Promise

BACK_S: Final = 60.0
"""What isn't back by then never will be."""
CONTROL_TITLE: Final = "ray::ServeReplica:holdfast:Control"
SERVE_CONTROLLER_TITLE: Final = "ray::ServeController"
_LOOK_S: Final = 0.05


@dataclass
class Done:
    """What was done: to whom, and what was seen of it. `until_s` is on the load's clock."""

    target: str
    detail: str = ""
    until_s: float | None = None
    back_s: float | None = None
    """From the death to a serving replacement."""
    excused: bool = False
    """Whether nobody can be answered meanwhile."""
    promises: tuple[Promise, ...] = ()


Hand = Callable[[World, Any, float], Awaitable[Done]]


# Replicas


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


async def kill_replica(world: World, fault: faults.KillReplica, lot: float) -> Done:
    victims = await _victims(world, fault.target, lot)
    version = _version(world, fault.target)
    for victim in victims:
        kill(victim.pid)
    return await _replaced(world, version, victims)


async def wedge_replica(world: World, fault: faults.WedgeReplica, lot: float) -> Done:
    victims = await _victims(world, fault.target, lot)
    version = _version(world, fault.target)
    for victim in victims:
        if fault.how == "stop":
            os.kill(victim.pid, signal.SIGSTOP)
        else:
            await world.command(version, victim.id, {"hang": fault.how})
    try:
        return await _replaced(world, version, victims)
    finally:
        for victim in victims:
            if fault.how == "stop":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGCONT)


async def _replaced(world: World, version: str, gone: list[Replica]) -> Done:
    """Until there are as many others. Those that came are as busy as the scenario has it."""
    began_s = world.now_s
    ids = {replica.id for replica in gone}
    count = world.scenario.system.replicas if version == world.primary else len(gone)

    async def fresh() -> bool:
        found = {replica.id for replica in await world.replicas(version)}
        return len(found) >= count and not found & ids

    await world.system.until(fresh, f"others than {', '.join(sorted(ids))} serve {version}", within_s=BACK_S)
    back_s = world.now_s - began_s
    if world.busy() and version == world.primary:
        await world.command(version, "all", world.busy())
    return Done(_named(version, gone), f"replaced after {back_s:.1f} s", world.now_s, back_s)


def _commanded(make: Callable[[Any], dict[str, Any]]) -> Hand:
    """A fault that replicas are told, and that ends when they are told so."""

    async def hand(world: World, fault: Any, lot: float) -> Done:
        version = _version(world, fault.target)
        victims = [] if fault.target.which == "all" else await _victims(world, fault.target, lot)
        whom = victims[0].id if victims else "all"
        command = make(fault) | {"seed": int(lot * 1000)}
        slow = {"slow_ms": command.get("slow_ms", 0) + world.busy().get("slow_ms", 0)}
        await world.command(version, whom, command | (slow if slow["slow_ms"] and version == world.primary else {}))
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


def _slowness(fault: faults.Slow) -> dict[str, Any]:
    found = {"slow_ms": fault.ms, "slow_ms_per_row": fault.ms_per_row, "slow_factor": fault.factor}
    return {key: value for key, value in found.items() if value and (key, value) != ("slow_factor", 1)}


def _channel(kind: str) -> Hand:
    return _commanded(lambda fault: {"channel": kind, "channel_rate": fault.rate})


# Processes around them


async def kill_gateway(world: World, fault: faults.KillGateway, lot: float) -> Done:
    found = await world.system.gateways()
    victims = found if fault.which == "all" else [one_of(found, lot)]
    for victim in victims:
        kill(victim)
    return await _gateways_back(world, victims)


async def drain_gateway(world: World, fault: faults.DrainGateway, lot: float) -> Done:
    victim = one_of(await world.system.gateways(), lot)
    os.kill(victim, signal.SIGTERM)
    return await _gateways_back(world, [victim])


async def rolling_restart(world: World, fault: faults.RollingRestart, lot: float) -> Done:
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
    return Done(target, f"all gateways take requests after {back_s:.1f} s", world.now_s, back_s)


async def kill_haproxy(world: World, fault: faults.KillHaproxy, lot: float) -> Done:
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

    await _soon(answers, "HAProxy answers again")
    back_s = world.now_s - began_s
    return Done(f"haproxy {', '.join(map(str, victims))}", f"answers after {back_s:.2f} s", world.now_s, back_s)


async def kill_control(world: World, fault: faults.KillControl, lot: float) -> Done:
    pid = await world.rollouts.pid()
    began_s = world.now_s
    kill(pid)
    await world.rollouts.until_controller(
        "another control plane writes", lambda one: one["pid"] != pid and one["state"] == "writing", within_s=BACK_S
    )
    back_s = world.now_s - began_s
    return Done(f"control plane {pid}", f"another one writes after {back_s:.1f} s", world.now_s, back_s)


async def kill_serve_controller(world: World, fault: faults.KillServeController, lot: float) -> Done:
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

    await _soon(back, "another Serve controller is there")
    back_s = world.now_s - began_s
    return Done(f"Serve controller {victims[0]}", f"another one after {back_s:.1f} s", world.now_s, back_s)


async def _soon(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Looked at more often than `until` does: the time counts."""
    try:
        async with asyncio.timeout(BACK_S):
            while not await condition():
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise RunError(f"not within {BACK_S:g} s: {what}") from None


async def restart_everything(world: World, fault: faults.RestartEverything, lot: float) -> Done:
    """What was true before must be true again: the rollout, and what the cache holds."""
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
    return Done("everything", detail, world.now_s, up_s - began_s, excused=True, promises=tuple(promises))


async def _cached(world: World) -> int:
    statuses = await world.system.status()
    return max((int((status.get("cache") or {}).get("entries", 0)) for status in statuses), default=0)


# What stands around


async def corrupt_artifact(world: World, fault: faults.CorruptArtifact, lot: float) -> Done:
    """A copy of the version, so that nothing that serves is touched."""
    source = world.store / fault.target.model / (fault.target.version or "v1")
    version = f"corrupt-{int(lot * 1000):03d}"
    folder = world.store / fault.target.model / version
    await asyncio.to_thread(_corrupt, source, folder, version, lot)
    name = f"{fault.target.model}@{version}"
    body = {"parameters": {"version": version}}
    path = f"/v2/repository/models/{fault.target.model}/load"
    try:
        status, answer = await world.system.pool.ask("POST", path, body, timeout_s=60)
    except NoReply as error:
        status, answer = 0, {"error": str(error)}
    said = answer.get("error", "") if isinstance(answer, dict) else str(answer)
    alive = await world.replicas(name)
    refused = Promise(status >= 400 and not alive, f"{name} is refused: {status} {said}"[:300])
    return Done(name, f"loading it gives {status}: {said}"[:200], world.now_s, promises=(refused,))


def _corrupt(source: Path, folder: Path, version: str, lot: float) -> None:
    import json
    import shutil

    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    artifact = next(path for path in sorted(folder.iterdir()) if path.name.startswith("model."))
    raw = bytearray(artifact.read_bytes())
    raw[int(lot * len(raw))] ^= 1
    artifact.chmod(0o644)
    artifact.write_bytes(raw)


async def redis_kill(world: World, fault: faults.RedisKill, lot: float) -> Done:
    assert world.redis is not None
    world.redis.kill()
    await asyncio.sleep(fault.lasts)
    await world.redis.start()
    return Done("redis", f"gone for {fault.lasts:g} s", world.now_s)


async def redis_slow(world: World, fault: faults.RedisSlow, lot: float) -> Done:
    assert world.proxy is not None
    world.proxy.delay_s = fault.delay
    try:
        await asyncio.sleep(fault.lasts)
    finally:
        world.proxy.delay_s = 0.0
    return Done("redis", f"answers {fault.delay:g} s late", world.now_s)


async def postgres_stop(world: World, fault: faults.PostgresStop, lot: float) -> Done:
    assert world.postgres is not None
    world.postgres.kill()
    try:
        said = await _controller_says(world, "log_unavailable", fault.lasts)
    finally:
        await world.postgres.start()
    gone_s = world.now_s
    back = await _writes_again(world)
    return Done("postgresql", f"{said.text}; {back.text}", gone_s, promises=(said, back))


async def disk_full(world: World, fault: faults.DiskFull, lot: float) -> Done:
    """By a limit on how large files of the control plane may be: nobody else on this disk notices."""
    controller = await world.rollouts.controller()
    if controller is None:
        raise RunError("the control plane doesn't say where its log is")
    path = Path(str(controller["log"]).removeprefix("sqlite://"))
    pid = int(controller["pid"])
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    sizes = [path.with_name(path.name + suffix) for suffix in ("", "-wal")]
    full = max(file.stat().st_size for file in sizes if file.exists())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, most))
    try:
        said = await _controller_says(world, "log_unavailable", fault.lasts)
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    gone_s = world.now_s
    back = await _writes_again(world)
    return Done(f"files of the control plane {pid}", f"{said.text}; {back.text}", gone_s, promises=(said, back))


async def _controller_says(world: World, state: str, lasts_s: float) -> Promise:
    """Whether it says so in that time; the time is waited for in any case."""
    until_s = world.now_s + lasts_s
    try:
        _, seconds = await world.rollouts.until_controller(state, lambda one: one["state"] == state, within_s=lasts_s)
        promise = Promise(True, f"the control plane says {state} after {seconds:.1f} s")
    except RunError as error:
        promise = Promise(False, str(error)[:200])
    await asyncio.sleep(max(0.0, until_s - world.now_s))
    return promise


async def _writes_again(world: World) -> Promise:
    try:
        _, seconds = await world.rollouts.until_controller(
            "it writes again", lambda one: one["state"] == "writing", within_s=BACK_S
        )
    except RunError as error:
        return Promise(False, str(error)[:200])
    return Promise(True, f"the event log is written again {seconds:.1f} s after")


# Clients


async def client_flood(world: World, fault: faults.ClientFlood, lot: float) -> Done:
    asked = await crowds.flood(world.system.port, clients=fault.clients, lasts_s=fault.lasts)
    return Done("clients", f"{asked} requests of {fault.clients} clients that never wait", world.now_s)


async def slow_clients(world: World, fault: faults.SlowClients, lot: float) -> Done:
    connected, answered = await crowds.slow(world.system.port, clients=fault.clients, lasts_s=fault.lasts)
    return Done("clients", f"{connected} slow clients, {answered} of them had their answer", world.now_s)


async def half_open(world: World, fault: faults.HalfOpen, lot: float) -> Done:
    connected = await crowds.half_open(world.system.port, clients=fault.clients, lasts_s=fault.lasts)
    return Done("clients", f"{connected} connections with half a request", world.now_s)


HANDS: Final[dict[type[faults.Fault], Hand]] = {
    faults.KillReplica: kill_replica,
    faults.WedgeReplica: wedge_replica,
    faults.Slow: _commanded(_slowness),
    faults.ErrorRate: _commanded(lambda fault: {"fail_rate": fault.rate}),
    faults.Nan: _commanded(lambda fault: {"nan_rate": fault.rate}),
    faults.WrongShape: _commanded(lambda fault: {"wrong_shape_rate": fault.rate}),
    faults.Cut: _channel("cut"),
    faults.Stall: _channel("stall"),
    faults.Garble: _channel("garble"),
    faults.KillGateway: kill_gateway,
    faults.DrainGateway: drain_gateway,
    faults.RollingRestart: rolling_restart,
    faults.KillHaproxy: kill_haproxy,
    faults.KillControl: kill_control,
    faults.KillServeController: kill_serve_controller,
    faults.RestartEverything: restart_everything,
    faults.CorruptArtifact: corrupt_artifact,
    faults.RedisKill: redis_kill,
    faults.RedisSlow: redis_slow,
    faults.PostgresStop: postgres_stop,
    faults.DiskFull: disk_full,
    faults.ClientFlood: client_flood,
    faults.SlowClients: slow_clients,
    faults.HalfOpen: half_open,
}
