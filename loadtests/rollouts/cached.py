"""The scenario of the cached predictions of a version that was taken back."""

import asyncio
import json
from typing import Final

from loadtests.resilience.client import NoReply, encode
from loadtests.resilience.errors import RunError
from loadtests.rollouts.files import MODEL, PRIOR, rollout_file
from loadtests.rollouts.rollback import went_back
from loadtests.rollouts.stage import Stage

CACHED: Final = range(600, 800)
"""Images that nobody asks about while the canary is taken back, so that the cache keeps what was said before."""
_ASKED_S: Final = 4.0
_WRITTEN_S: Final = 1.0
_VERSION: Final = "late"


async def no_cached_answer(stage: Stage) -> None:
    """The canary fills the cache and is taken back; then everything is unloaded, so that only the cache is left."""
    name = f"{MODEL}@{_VERSION}"
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(_VERSION, pauses={50: "60s"}))
        await stage.until_weight(50)
        async with stage.traffic(images=CACHED, rate=len(CACHED) / _ASKED_S) as load:
            await asyncio.sleep(_ASKED_S)
        await asyncio.sleep(_WRITTEN_S)
        last = {sample.image: sample.by for sample in sorted(load.samples, key=lambda sample: sample.end_s)}
        theirs = [image for image, by in last.items() if by == name]
        await stage.fault(_VERSION, fail_rate=1.0)
        await stage.until_over()
        await stage.rest()
    stage.unharmed()
    await went_back(stage, _VERSION)
    await stage.system.ask("POST", f"/v2/repository/models/{MODEL}/unload", {}, timeout_s=60)
    await _only_the_cache(stage, name, set(last), set(theirs))


async def _only_the_cache(stage: Stage, name: str, asked: set[int], theirs: set[int]) -> None:
    given = {image: await _from_cache(stage, image) for image in sorted(asked)}
    by = sorted(set(given.values()))
    counts = ", ".join(f"{sum(one == version for one in given.values())} by {version}" for version in by)
    stage.promise(len(theirs) >= len(asked) / 10, f"{len(theirs)} of {len(asked)} cached answers were {name}'s before")
    stage.promise(name not in by, f"with nothing loaded: {counts}")
    kept = [image for image in asked - theirs if given[image] == f"{MODEL}@{PRIOR}"]
    stage.promise(
        len(kept) >= 0.9 * len(asked - theirs) > 0, f"{len(kept)} of the other {len(asked - theirs)} are still given"
    )


async def _from_cache(stage: Stage, image: int) -> str:
    """Who has answered, `digits@static` included; its status if nobody did."""
    request = encode("POST", f"/v2/models/{MODEL}/infer", stage.documents[image])
    try:
        reply = await stage.system.pool.send(request, timeout_s=10.0)
    except NoReply as error:
        raise RunError(f"with nothing loaded: {error}") from None
    if reply.status != 200:
        return f"nobody ({reply.status} {json.loads(reply.body or b'{}')!s:.60})"
    return reply.headers.get("holdfast-version", "nobody")
