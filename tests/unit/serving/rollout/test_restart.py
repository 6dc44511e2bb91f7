"""A rolling restart replaces every gateway, one at a time, and stops where one doesn't come back."""

from __future__ import annotations

import asyncio

import pytest

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


async def broken() -> set[str]:
    raise ZeroDivisionError("a defect")


async def hung() -> set[str]:
    await asyncio.Event().wait()
    raise AssertionError


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


async def test_who_began_it_may_go_away_before_the_gateways_have_been_asked(clock: FakeClock) -> None:
    fleet = FakeFleet("a", "b")
    restart = RollingRestart(fleet, each_timeout_s=30)
    caller = asyncio.create_task(restart.begin())
    await asyncio.sleep(0.005)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert (await ended(restart)).restarted == ("a", "b")


async def test_gateways_that_cannot_be_asked_make_it_fail_and_the_next_one_can_begin(clock: FakeClock) -> None:
    fleet = FakeFleet("a", "b")
    restart = RollingRestart(fleet, each_timeout_s=30)
    asks, fleet.accepting = fleet.accepting, broken  # type: ignore[method-assign]  # for once
    progress = await restart.begin()
    assert (progress.state, progress.reason) == ("failed", "ZeroDivisionError: a defect")
    fleet.accepting = asks  # type: ignore[method-assign]  # as it was
    await restart.begin()
    assert (await ended(restart)).state == "done"


@pytest.mark.parametrize("fault", [TimeoutError("Ray is slow"), TimeoutError()])
async def test_a_question_that_times_out_is_no_defect_of_the_restart(clock: FakeClock, fault: TimeoutError) -> None:
    async def late() -> set[str]:
        raise fault

    fleet = FakeFleet("a")
    fleet.accepting = late  # type: ignore[method-assign]  # for once
    progress = await RollingRestart(fleet, each_timeout_s=30).begin()
    assert (progress.state, progress.reason[:12]) == ("failed", "TimeoutError")


async def test_gateways_that_are_never_heard_of_are_not_waited_for(clock: FakeClock) -> None:
    fleet = FakeFleet("a")
    fleet.accepting = hung  # type: ignore[method-assign]  # for good
    progress = await RollingRestart(fleet, each_timeout_s=30).begin()
    assert (progress.state, progress.restarted) == ("failed", ())
    assert "within 30 s" in progress.reason


async def test_with_no_gateway_to_restart_it_is_not_done(clock: FakeClock) -> None:
    fleet = FakeFleet("a")
    fleet.speechless = 1
    restart = RollingRestart(fleet, each_timeout_s=30)
    progress = await restart.begin()
    assert (progress.state, progress.restarted, fleet.left) == ("failed", (), [])
    assert "no gateway" in progress.reason
