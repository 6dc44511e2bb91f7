"""A rolling restart replaces every gateway, one at a time, and stops where one doesn't come back."""

from __future__ import annotations

import asyncio

from serving.rollout.restart import RestartProgress, RollingRestart
from tests.fakes import FakeClock


class FakeFleet:
    """Gateways that Serve replaces, each after a while, unless it can't."""

    def __init__(self, *gateways: str) -> None:
        self.accept = set(gateways)
        self.left: list[str] = []
        self.fewest = len(gateways)
        self.replaces = True
        self.speechless = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def accepting(self) -> set[str]:
        await asyncio.sleep(0.01)
        if self.speechless:
            self.speechless -= 1
            return set()
        return set(self.accept)

    async def leave(self, gateway: str) -> None:
        self.left.append(gateway)
        self.accept.remove(gateway)
        self.fewest = min(self.fewest, len(self.accept))
        if self.replaces:
            task = asyncio.get_running_loop().create_task(self._replace(gateway))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replace(self, gateway: str) -> None:
        await asyncio.sleep(3)
        self.accept.add(f"{gateway}'")


async def ended(restart: RollingRestart) -> RestartProgress:
    while restart.progress.state == "running":  # noqa: ASYNC110  # time jumps
        await asyncio.sleep(0.1)
    return restart.progress


async def test_every_gateway_is_replaced_and_never_more_than_one_is_away(clock: FakeClock) -> None:
    fleet = FakeFleet("a", "b", "c")
    restart = RollingRestart(fleet, each_timeout_s=30)
    assert (await restart.begin()).to_do == ("a", "b", "c")
    assert await ended(restart) == RestartProgress("done", restarted=("a", "b", "c"))
    assert fleet.accept == {"a'", "b'", "c'"}
    assert fleet.fewest == 2


async def test_a_second_one_joins_the_first(clock: FakeClock) -> None:
    fleet = FakeFleet("a", "b")
    restart = RollingRestart(fleet, each_timeout_s=30)
    await asyncio.gather(restart.begin(), restart.begin())
    await restart.begin()
    await ended(restart)
    assert fleet.left == ["a", "b"]
    await restart.begin()
    await ended(restart)
    assert fleet.left == ["a", "b", "a'", "b'"]


async def test_when_one_is_not_replaced_the_others_stay(clock: FakeClock) -> None:
    fleet = FakeFleet("a", "b")
    fleet.replaces = False
    restart = RollingRestart(fleet, each_timeout_s=30)
    await restart.begin()
    progress = await ended(restart)
    assert (progress.state, progress.restarted, fleet.left) == ("failed", (), ["a"])
    assert "gateway a wasn't replaced within 30 s" in progress.reason


async def test_a_fleet_that_cannot_say_for_a_while_is_asked_again(clock: FakeClock) -> None:
    fleet = FakeFleet("a", "b")
    restart = RollingRestart(fleet, each_timeout_s=30)
    await restart.begin()
    fleet.speechless = 50
    assert (await ended(restart)).state == "done"
