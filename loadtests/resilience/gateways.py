"""Scenarios in which gateways go, with requests in them."""

from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import kill
from loadtests.resilience.scenario import BUSY_MS, PRIMARY, others_answer
from loadtests.resilience.stage import Stage
from loadtests.resilience.system import GATEWAYS
from loadtests.resilience.verdict import Demands

RESENT_BYTES = 24 << 10
"""A body as large as Holdfast promises to send again, almost."""


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
