"""Everything well again between two scenarios on one system."""

import shutil

from loadtests.chaos.right import all_answer
from loadtests.chaos.running import RunningSystem
from loadtests.chaos.world import MODEL, Grounds
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError
from loadtests.resilience.run import heal
from loadtests.rollouts.run import reset


async def healed(grounds: Grounds) -> str | None:
    """Nothing; what was in the way if that took a new start with nothing remembered."""
    system = grounds.system
    digits = next(model for model in system.arguments["models"] if model["name"] == MODEL)
    try:
        await (reset(system) if digits["versions"] == ["v1"] else heal(system))
        await all_answer(system)
    except (RunError, NoReply, TimeoutError) as error:
        if isinstance(system, RunningSystem):
            raise RunError(f"{system.where} isn't as it was before: {error}") from None
        await system.stop()
        shutil.rmtree(system.folder / "state", ignore_errors=True)
        await system.start()
        return str(error) or "a version that answers no more"
    return None
