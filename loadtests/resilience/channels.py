"""Scenarios in which every connection between gateways and replicas is hurt."""

import asyncio

from loadtests.resilience.scenario import PRIMARY
from loadtests.resilience.stage import Stage
from loadtests.resilience.verdict import Demands


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
