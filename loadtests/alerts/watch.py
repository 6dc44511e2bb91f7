"""Notes which alerts fire while a scenario runs, and when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from loadtests.alerts import files
from loadtests.alerts.judging import Fired
from loadtests.alerts.prometheus import Prometheus, prometheus
from loadtests.alerts.rules import quicker
from loadtests.chaos.world import World
from loadtests.resilience.errors import RunError

FACTOR: Final = 60.0
"""An hour's window is a minute's, and five minutes' five seconds'."""
SCRAPE_S: Final = 1.0
WINDOW_MIN_MS: Final = 4000
AFTER_S: Final = 6.0
"""What a scenario did last has to get through a scrape, a rule and its `for`."""
_LOOK_S: Final = 0.5


class Watch:
    """All alerts of a run, by scenario."""

    def __init__(self) -> None:
        self.fired: dict[str, list[Fired]] = {}

    @contextlib.asynccontextmanager
    async def beside(self, world: World) -> AsyncIterator[None]:
        """A Prometheus of its own, with nothing remembered, from before a scenario's calm until a while after it."""
        rules = {name: quicker(files.rules(name), factor=FACTOR, window_min_ms=WINDOW_MIN_MS) for name in files.RULES}
        fired: list[Fired] = []
        self.fired[world.scenario.name] = fired
        async with prometheus(world.system.port, rules, every_s=SCRAPE_S) as running:
            await running.until_calm()
            looking = asyncio.get_running_loop().create_task(_look(running, lambda: world.now_s, fired))
            try:
                yield
                await asyncio.sleep(AFTER_S)
            finally:
                looking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await looking


async def _look(running: Prometheus, now_s: Callable[[], float], fired: list[Fired]) -> None:
    while True:
        with contextlib.suppress(RunError):  # a machine that is busy; the next look will do
            at_s = now_s()
            fired += [Fired(at_s, labels["alertname"], labels.get("severity", "")) for labels in await running.firing()]
        await asyncio.sleep(_LOOK_S)
