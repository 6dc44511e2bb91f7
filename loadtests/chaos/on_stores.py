"""What is done to what the system keeps: artifacts, the shared cache, and the event log."""

import asyncio
import contextlib
import json
import resource
import shutil
from pathlib import Path

from loadtests.chaos import faults
from loadtests.chaos.blows import BACK_S, Blow, Done
from loadtests.chaos.world import World
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError
from loadtests.rollouts.verdict import Promise


async def corrupt_artifact(blow: Blow[faults.CorruptArtifact]) -> Done:
    """A copy of the version, so that nothing that serves is touched."""
    world = blow.world
    source = world.store / blow.fault.target.model / (blow.fault.target.version or "v1")
    version = f"corrupt-{int(blow.lot * 1000):03d}"
    folder = world.store / blow.fault.target.model / version
    await asyncio.to_thread(_corrupt, source, folder, version, blow.lot)
    name = f"{blow.fault.target.model}@{version}"
    body = {"parameters": {"version": version}}
    path = f"/v2/repository/models/{blow.fault.target.model}/load"
    try:
        status, answer = await world.system.pool.ask("POST", path, body, timeout_s=60)
    except NoReply as error:
        status, answer = 0, {"error": str(error)}
    said = answer.get("error", "") if isinstance(answer, dict) else str(answer)
    alive = await world.replicas(name)
    refused = Promise(status >= 400 and not alive, f"{name} is refused: {status} {said}"[:300])
    return Done(name, f"loading it gives {status}: {said}"[:200], world.now_s, promises=(refused,))


def _corrupt(source: Path, folder: Path, version: str, lot: float) -> None:
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    artifact = next(path for path in sorted(folder.iterdir()) if path.name.startswith("model."))
    raw = bytearray(artifact.read_bytes())
    raw[int(lot * len(raw))] ^= 1
    artifact.chmod(0o644)
    artifact.write_bytes(raw)


async def redis_kill(blow: Blow[faults.RedisKill]) -> Done:
    world = blow.world
    assert world.redis is not None
    world.redis.kill()
    await asyncio.sleep(blow.fault.lasts)
    await world.redis.start()
    return Done("redis", f"gone for {blow.fault.lasts:g} s", world.now_s)


async def redis_slow(blow: Blow[faults.RedisSlow]) -> Done:
    world = blow.world
    assert world.proxy is not None
    world.proxy.delay_s = blow.fault.delay
    try:
        await asyncio.sleep(blow.fault.lasts)
    finally:
        world.proxy.delay_s = 0.0
    return Done("redis", f"answers {blow.fault.delay:g} s late", world.now_s)


async def postgres_stop(blow: Blow[faults.PostgresStop]) -> Done:
    world = blow.world
    assert world.postgres is not None
    world.postgres.kill()
    try:
        said = await _controller_says(world, "log_unavailable", blow.fault.lasts)
    finally:
        await world.postgres.start()
    gone_s = world.now_s
    back = await _writes_again(world)
    return Done("postgresql", f"{said.text}; {back.text}", gone_s, promises=(said, back))


async def disk_full(blow: Blow[faults.DiskFull]) -> Done:
    """By a limit on how large files of the control plane may be: nobody else on this disk notices."""
    world = blow.world
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
        said = await _controller_says(world, "log_unavailable", blow.fault.lasts)
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
