"""Scenarios in which the control plane dies, stands still, or is there twice."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind
from loadtests.resilience.processes import kill
from loadtests.resilience.system import HoldfastUnderTest
from loadtests.rollouts.admin import OVER, Report, Rollouts
from loadtests.rollouts.files import MODEL, rollout_file
from loadtests.rollouts.rollback import went_back_later
from loadtests.rollouts.stage import Stage
from loadtests.rollouts.store import BETTER

AWAY_S: Final = 20.0
"""So long the control plane stands still at most. Serve may replace it before."""
_VERSION: Final = "late"
_LOOK_S: Final = 0.2

Point = tuple[str, Callable[[Report], bool]]


def _weight(weight: int) -> Point:
    return f"at {weight} %", lambda report: report["weight"] >= weight or report["phase"] in OVER


def _phase(*phases: str) -> Point:
    wanted = {*phases, *OVER}
    return phases[0], lambda report: report["phase"] in wanted


FORWARD: Final[tuple[Point, ...]] = (
    ("when it has been started", lambda _: True),
    _weight(5),
    _weight(25),
    _weight(50),
    _phase("Baking"),
)
BACKWARD: Final[tuple[Point, ...]] = (
    _phase("Starting", "Progressing", "Promoting", "Baking"),
    _weight(5),
    _weight(25),
    _phase("RollingBack"),
    ("when it is over", lambda report: report["phase"] in OVER),
)
"""In the third the canary begins to fail just before."""


async def controller_killed(stage: Stage) -> None:
    """SIGKILL to the control plane at five points of a rollout."""
    waits: list[float] = []
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(BETTER))
        waits += [await _killed_at(stage, point) for point in FORWARD]
        report = await stage.until_over()
        stage.ended_as("Succeeded")
        stage.nothing_twice(await stage.rollouts.history(report["rollout"]))
        await stage.rest()
    stage.unharmed()
    stage.note(f"{len(waits)} killed on the way forward, the next one wrote after {max(waits):.1f} s at most")
    await stage.replays()


async def controller_killed_back(stage: Stage) -> None:
    """The same at five points of a rollout that is taken back."""
    waits: list[float] = []
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(_VERSION))
        for number, point in enumerate(BACKWARD):
            waits.append(await _killed_at(stage, point, before=_failing(stage) if number == 2 else None))
        await stage.until_over()
        await stage.rest()
    stage.unharmed()
    stage.ended_as("RolledBack")
    assert stage.report is not None
    stage.nothing_twice(await stage.rollouts.history(stage.report["rollout"]))
    stage.note(f"{len(waits)} killed on the way back, the next one wrote after {max(waits):.1f} s at most")
    await stage.replays()


def _failing(stage: Stage) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        await stage.fault(_VERSION, fail_rate=0.5, seed=4)

    return fail


async def _killed_at(stage: Stage, point: Point, *, before: Callable[[], Awaitable[None]] | None = None) -> float:
    what, condition = point
    report = await stage.rollouts.until(what, condition, within_s=90)
    if before is not None:
        await before()
    await asyncio.sleep(stage.rng.uniform(0.0, 0.3))
    seconds = await stage.kill_controller()
    stage.note(f"killed {what} ({report['phase']}, {report['weight']} %): the next one wrote after {seconds:.1f} s")
    return seconds


async def controller_away(stage: Stage) -> None:
    """The control plane stands still while the canary begins to fail: breakers shut it out until it is back."""
    async with stage.traffic() as load:
        await stage.calm()
        await stage.start(rollout_file(_VERSION, pauses={25: "60s"}))
        await stage.until_weight(25)
        pid = await stage.rollouts.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            await stage.fault(_VERSION, fail_rate=1.0)
            failing_s = stage.now_s
            opened_s = await _shut_out(stage, failing_s, within_s=AWAY_S / 2)
            replaced = await _gone(pid, within_s=failing_s + AWAY_S - stage.now_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        back_s = stage.now_s
        await stage.until_over()
        await stage.rest()
    stage.promise(
        opened_s is not None,
        "every gateway's breaker of it opened"
        + ("" if opened_s is None else f" {opened_s:.1f} s after it began to fail, without a control plane"),
    )
    answered = sum(sample.kind is Kind.OK and failing_s < sample.due_s < back_s for sample in load.samples)
    how = "was replaced" if replaced else "went on"
    stage.note(f"the control plane {how} after {back_s - failing_s:.1f} s; {answered} good answers in that time")
    stage.unharmed()
    stage.ended_as("RolledBack")
    stage.nothing_twice(await went_back_later(stage, _VERSION))
    await stage.replays()


async def _shut_out(stage: Stage, from_s: float, *, within_s: float) -> float | None:
    """Seconds until no gateway's breaker of the canary is closed; None if that doesn't happen."""
    while stage.now_s - from_s < within_s:
        seen = [_breaker(status) for status in await stage.system.status()]
        if seen and "closed" not in seen:
            return stage.now_s - from_s
        await asyncio.sleep(_LOOK_S)
    return None


def _breaker(status: Mapping[str, Any]) -> str:
    return str(status["models"][MODEL]["versions"][_VERSION]["breaker"]["state"])


async def _gone(pid: int, *, within_s: float) -> bool:
    """Whether the process ended in that time."""
    until = asyncio.get_running_loop().time() + within_s
    while asyncio.get_running_loop().time() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(_LOOK_S)
    return False


async def two_controllers(stage: Stage) -> None:
    """A second control plane with the same event log, that of another Holdfast: one writes, the other steps back."""
    arguments = {**stage.system.arguments, "event_log": await stage.log()}
    del arguments["state_dir"], arguments["http"]
    async with stage.traffic():
        await stage.calm()
        async with HoldfastUnderTest(arguments) as other:
            states = await _settled(stage.rollouts, Rollouts(other.pool))
            stage.note(f"this one: {states[0]['state']} ({states[0]['detail']})")
            stage.note(f"the other: {states[1]['state']} ({states[1]['detail']})")
            writing = sum(said["state"] == "writing" for said in states)
            stage.promise(writing == 1, f"{writing} of two control planes write")
            stage.promise(
                {said["state"] for said in states} == {"writing", "standby"}, "the other one says that it stands by"
            )
            await other.stop()
        await _takes_over(stage)
        await stage.rest()
    stage.unharmed()
    await stage.replays()


async def _settled(one: Rollouts, other: Rollouts, *, still_s: float = 5.0) -> list[Mapping[str, Any]]:
    """What both say of themselves once that hasn't changed for a while."""
    loop = asyncio.get_running_loop()
    last: list[str] = []
    since = loop.time()
    until = since + 60
    while loop.time() < until:
        said = [found for found in (await one.controller(), await other.controller()) if found is not None]
        states = [str(found["state"]) for found in said]
        if states != last:
            last, since = states, loop.time()
        if len(said) == 2 and loop.time() - since >= still_s:
            return said
        await asyncio.sleep(_LOOK_S)
    raise RunError(f"two control planes never come to rest: {last}")


async def _takes_over(stage: Stage) -> None:
    """With the other one gone, this one writes again, if need be after it was started anew."""
    said = await stage.rollouts.controller()
    if said is not None and said["state"] == "writing":
        return
    try:
        _, seconds = await stage.rollouts.until_controller(
            "it writes again", lambda one: one["state"] == "writing", within_s=20
        )
        stage.note(f"with the other one gone, this one wrote after {seconds:.1f} s")
    except RunError:
        kill(await stage.rollouts.pid())
        _, seconds = await stage.rollouts.until_controller(
            "it writes again", lambda one: one["state"] == "writing", within_s=60
        )
        stage.note("this one wrote again only once it was started anew")
