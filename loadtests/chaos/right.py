"""What is right: what each version answers to each input when nothing is wrong."""

import asyncio
from typing import Final

from loadtests.chaos.world import World
from loadtests.resilience.answers import Outputs, digit_documents
from loadtests.resilience.calm import answer_in_calm, answers_in_calm
from loadtests.resilience.errors import RunError
from loadtests.resilience.system import HoldfastUnderTest, versions_of
from loadtests.rollouts.store import digit_images, known_answers

IMAGES: Final = 200
"""So many digits are asked about: few enough to come again and again."""
_ANSWERS_S: Final = 45.0
_LOOK_S: Final = 0.25
_IN_A_ROW: Final = 16
"""Each of the gateways has breakers of its own, and each breaker wants probes of its own."""


async def known_to(system: HoldfastUnderTest) -> dict[str, list[Outputs]]:
    """By version, asked one by one. Raises `RunError` for one that gives no good answer."""
    documents = digit_documents()[:IMAGES]
    return {
        version: await answers_in_calm(system.pool, version, documents)
        for model in system.arguments["models"]
        for version in versions_of(model)
    }


async def known_to_canary(world: World) -> dict[str, list[Outputs]]:
    """What the version that a rollout brings should answer, also if it does not; empty without a rollout."""
    rollout = world.scenario.rollout
    if rollout is None:
        return {}
    images, _ = digit_images()
    found = await asyncio.to_thread(known_answers, world.store, [rollout.version], images[:IMAGES])
    return {version: list(answers) for version, answers in found.items()}


async def all_answer(system: HoldfastUnderTest) -> None:
    """Until every version answers again: a breaker that is open needs somebody who asks. Raises `TimeoutError`."""
    document = digit_documents()[0]
    for version in [name for model in system.arguments["models"] for name in versions_of(model)]:
        async with asyncio.timeout(_ANSWERS_S):
            good = 0
            while good < _IN_A_ROW:
                try:
                    await answer_in_calm(system.pool, version, document)
                    good += 1
                except RunError:
                    good = 0
                    await asyncio.sleep(_LOOK_S)
