"""All scenarios that are wanted: on as few systems as they need, one after the other, each with all well before it.

Not here: what happens in one (`one.py`).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.chaos import record
from loadtests.chaos.faults import OF_ITS_OWN, name_of
from loadtests.chaos.healing import healed
from loadtests.chaos.one import Result, Run, Say
from loadtests.chaos.protections import scenario_without
from loadtests.chaos.right import known_to, known_to_canary
from loadtests.chaos.running import RunningSystem, address, running
from loadtests.chaos.schedule import Due, schedule
from loadtests.chaos.spec import Scenario
from loadtests.chaos.world import Grounds, World, grounds, same_grounds
from loadtests.resilience.answers import Outputs
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError

_STILL_S: Final = 15.0
THE_END: Final = "(the end of a system)"

Beside = Callable[[World], contextlib.AbstractAsyncContextManager[None]]
"""Something that goes on while a scenario runs, from before its calm until after its end."""


class Failure(NamedTuple):
    """A run that came to no end, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What shall be run, and how. The records are below `out`, one folder each."""

    scenarios: Sequence[Scenario]
    store: Path
    out: Path
    seed: int = 0
    at: str | None = None
    """The address of a system that is there already; None starts one for every kind that is needed."""
    protection: str | None = None
    """Switched off, if given: what it is for should fail then."""
    keep: bool = False

    def command(self, scenario: Scenario) -> str:
        """What to type for the same run of one of them again, on a system of its own."""
        words = ["holdfast", "chaos", "run", scenario.name, "--seed", str(self.seed)]
        if scenario.alone:
            words += ["--seconds", f"{scenario.load.seconds:g}"]
        if self.protection is not None:
            words += ["--without", self.protection]
        return " ".join(words)


def scheduled(scenario: Scenario, seed: int) -> tuple[Due, ...]:
    """What a run of it with this seed does."""
    return schedule(scenario, random.Random(f"{seed}/{scenario.name}"))


def _check(plan: Plan) -> None:
    """Raises `RunError` for what can't be run as it is wanted."""
    if plan.at is None:
        return
    address(plan.at)
    if plan.protection is not None:
        raise RunError("--without needs a system of its own: leave --at out")
    for scenario in plan.scenarios:
        _can_be_done_to_others(scenario)


def _nothing(_world: World) -> contextlib.AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


async def run(plan: Plan, say: Say, *, beside: Beside = _nothing) -> AsyncGenerator[Result | Failure]:
    """A result each. Scenarios that can share a system do, one after the other, each with all well again before it."""
    _check(plan)
    left = [scenario_without(plan.protection, scenario) for scenario in plan.scenarios]
    started = 0
    while left:
        chosen = [scenario for scenario in left if plan.at is not None or same_grounds(left[0], scenario)]
        left = [scenario for scenario in left if scenario not in chosen]
        done = 0
        try:
            began = time.monotonic()
            async with contextlib.AsyncExitStack() as stack:
                async with _patience(say, "starting a system" if plan.at is None else f"looking at {plan.at}"):
                    found = await stack.enter_async_context(_grounds(plan, chosen))
                    known = await known_to(found.system)
                say(f"ready after {time.monotonic() - began:.1f} s")
                for scenario in chosen:
                    done += 1
                    started += 1
                    telling = _counting(say, started, len(plan.scenarios))
                    yield await _one(plan, scenario, found, known, telling, beside=beside)
                    if done < len(chosen):
                        async with _patience(say, "waiting until all is well again"):
                            trouble = await healed(found)
                        if trouble:
                            say(f"afterwards {trouble}: it was started anew")
                if complaints := await found.system.stop():
                    yield Failure(THE_END, "; ".join(complaints))
        except RunError as error:
            if len(plan.scenarios) == 1:
                raise
            for scenario in chosen[done:] or chosen[-1:]:
                yield Failure(scenario.name, str(error))


@contextlib.asynccontextmanager
async def _patience(say: Say, what: str) -> AsyncIterator[None]:
    """Say what is done, and again and again that it still is."""

    async def still() -> None:
        while True:
            await asyncio.sleep(_STILL_S)
            say(f"still {what}")

    say(what)
    telling = asyncio.get_running_loop().create_task(still())
    try:
        yield
    finally:
        telling.cancel()


def _counting(say: Say, number: int, of: int) -> Say:
    """The same, with how far it is; a single one needs none of that."""
    return say if of == 1 else lambda text: say(f"{number}/{of} {text}")


def _can_be_done_to_others(scenario: Scenario) -> None:
    """Raises `RunError` for what only a system may suffer that the run itself has started."""
    drawn = [] if scenario.draw is None else scenario.draw.faults
    for fault in [*scenario.faults, *drawn]:
        if isinstance(fault, OF_ITS_OWN):
            raise RunError(f"{scenario.name}: {name_of(fault)} needs a system of its own: leave --at out")
    if scenario.rollout is not None or scenario.load.shape == "overload" or scenario.must.flat is not None:
        raise RunError(f"{scenario.name} needs a system of its own: leave --at out")


def _grounds(plan: Plan, chosen: Sequence[Scenario]) -> contextlib.AbstractAsyncContextManager[Grounds]:
    if plan.at is not None:
        return running(plan.at)
    return grounds(chosen, plan.store, protection=plan.protection, keep=plan.keep)


async def _one(
    plan: Plan, scenario: Scenario, found: Grounds, known: Mapping[str, list[Outputs]], say: Say, *, beside: Beside
) -> Result | Failure:
    started_at = record.started()
    folder = plan.out / scenario.name
    folder.mkdir(parents=True, exist_ok=True)
    faults = scheduled(scenario, plan.seed)
    try:
        if isinstance(found.system, RunningSystem):
            scenario = await found.system.as_it_is(scenario)
        where = found.world(scenario)
        if where.busy():
            await where.command(where.primary, "all", where.busy())
        right = {**known, **await known_to_canary(where)}
        one = Run(scenario, seed=plan.seed, plan=faults, world=where, known=right, folder=folder, say=say)
        async with beside(where):
            result = await one.go()
    except (RunError, NoReply) as error:
        if len(plan.scenarios) == 1:
            raise RunError(str(error)) from None
        return Failure(scenario.name, str(error))
    record.write(
        folder,
        scenario=one.scenario,
        seed=plan.seed,
        started_at=started_at,
        seconds=scenario.load.seconds,
        schedule=faults,
        performed=one.gathered.performed,
        series=one.watch.series(),
        verdicts=result.verdicts,
        notes=result.notes,
        protection=plan.protection,
        command=plan.command(scenario),
    )
    return result
