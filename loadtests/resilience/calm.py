"""What versions answer when nothing is wrong: asked before anything is done to the system."""

import asyncio
from collections.abc import Sequence
from typing import Final

from loadtests.resilience.answers import Outputs, known_outputs
from loadtests.resilience.client import NoReply, Pool, encode
from loadtests.resilience.errors import RunError

_ASKERS: Final = 8
_TIMEOUT_S: Final = 15.0


async def answer_in_calm(pool: Pool, version: str, document: bytes) -> Outputs:
    """By a version named as ``digits@v2``. Raises `RunError` if it gives no good answer."""
    model, _, name = version.partition("@")
    request = encode("POST", f"/v2/models/{model}/versions/{name}/infer", document)
    try:
        return known_outputs(version, await pool.send(request, timeout_s=_TIMEOUT_S))
    except NoReply as error:
        raise RunError(f"{version} gives no answer in calm: {error}") from None


async def answers_in_calm(pool: Pool, version: str, documents: Sequence[bytes]) -> list[Outputs]:
    """As above, to each of the documents."""
    limit = asyncio.Semaphore(_ASKERS)

    async def ask(document: bytes) -> Outputs:
        async with limit:
            return await answer_in_calm(pool, version, document)

    return list(await asyncio.gather(*(ask(document) for document in documents)))
