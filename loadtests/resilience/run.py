"""A run: the systems one after the other, and on each its scenarios."""

import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.resilience import evidence
from loadtests.resilience.answers import STATIC_OUTPUTS, Outputs, digit_documents
from loadtests.resilience.calm import answers_in_calm
from loadtests.resilience.client import NoReply
from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Figures
from loadtests.resilience.redis import Redis, SlowProxy, server_program
from loadtests.resilience.scenario import PRIMARY, Scenario
from loadtests.resilience.setups import TRIO, arguments, without
from loadtests.resilience.stage import REPEATED, Pace, Stage
from loadtests.resilience.system import HoldfastUnderTest, versions_of
from loadtests.resilience.table import verdict
from loadtests.resilience.verdict import Demands, Result, complaints

_WHOLE_TIMEOUT_S = 120.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What shall be run, and how."""

    scenarios: Sequence[Scenario]
    store: Path
    pace: Pace
    seed: int = 0
    protection: str | None = None
    """Switched off, if given: every scenario should then fail."""
    keep: bool = False
    """Whether the folders of the systems stay, with all logs."""


async def run(plan: Plan, say: Say) -> list[Result]:
    """A result for each scenario, and one for each system that didn't end in good order."""
    documents = digit_documents()
    results: list[Result] = []
    for setup in dict.fromkeys(scenario.setup for scenario in plan.scenarios):
        chosen = [scenario for scenario in plan.scenarios if scenario.setup == setup]
        try:
            async with _system(plan, setup, say) as (system, redis, proxy):
                known = await _known_answers(system, documents)
                for scenario in chosen:
                    stage = Stage(
                        system=system,
                        pace=plan.pace,
                        rng=random.Random(f"{plan.seed}/{scenario.name}"),
                        documents=documents,
                        known=known,
                        redis=redis,
                        proxy=proxy,
                    )
                    results.append(await _one(plan, scenario, stage, say))
                results += await _end(plan, setup, system)
        except RunError as error:  # the system didn't come up, or didn't come back
            done = {result.name for result in results}
            results += [Result(each.name, None, [str(error)]) for each in chosen if each.name not in done]
            say(f"{setup}: {error}")
    return results


@contextlib.asynccontextmanager
async def _system(
    plan: Plan, setup: str, say: Say
) -> AsyncIterator[tuple[HoldfastUnderTest, Redis | None, SlowProxy | None]]:
    """A system that is ready, with a Redis if the setup has one."""
    async with contextlib.AsyncExitStack() as stack:
        redis: Redis | None = None
        proxy: SlowProxy | None = None
        if setup == TRIO and (program := server_program()) is not None:
            redis = Redis(program)
            stack.callback(redis.close)
            await redis.start()
            proxy = SlowProxy(redis.socket)
            await proxy.start()
            stack.push_async_callback(proxy.close)
        settings = arguments(
            setup,
            store=plan.store,
            static=STATIC_OUTPUTS,
            redis_url=None if proxy is None else f"redis://127.0.0.1:{proxy.port}/0",
        )
        if plan.protection is not None:
            settings = without(plan.protection, settings)
        began = time.monotonic()
        say(f"{setup}: starting a system of its own")
        system = await stack.enter_async_context(HoldfastUnderTest(settings, keep=plan.keep))
        kept = f", all of it in {system.folder}" if plan.keep else ""
        say(f"{setup}: ready after {time.monotonic() - began:.1f} s{kept}")
        yield system, redis, proxy


async def _known_answers(system: HoldfastUnderTest, documents: Sequence[bytes]) -> dict[str, list[Outputs]]:
    """What each version answers to each input of the load when nothing is wrong."""
    versions = [name for model in system.arguments["models"] for name in versions_of(model)]
    asked = [documents[image] for image in REPEATED]
    return {version: await answers_in_calm(system.pool, version, asked) for version in versions}


async def _one(plan: Plan, scenario: Scenario, stage: Stage, say: Say) -> Result:
    """A scenario, and the system healed after it."""
    say(f"{scenario.name} ...")
    began = time.monotonic()
    counted: Mapping[tuple[str, str, str], int] = {}
    against: list[str] = []
    try:
        before = await stage.system.counters()
        demands = await scenario.run(stage)
        counted = evidence.grown(before, await stage.system.counters())
    except (RunError, NoReply) as error:
        against.append(str(error))
        demands = Demands()
    figures = stage.figures() if stage.samples else None
    against += _complaints(stage, figures, demands, counted)
    if (broken := await _healed(stage.system)) is not None:
        against.append(broken)
    notes = [*stage.notes, *evidence.described(counted), *_counts(figures)]
    if against:
        notes += [f"first {what}: {example}" for what, example in stage.examples.items()]
    result = Result(scenario.name, figures, against, notes)
    said = verdict(result, should_fail=plan.protection is not None)
    say(f"{scenario.name}: {said} ({time.monotonic() - began:.0f} s)")
    return result


def _complaints(
    stage: Stage, figures: Figures | None, demands: Demands, counted: Mapping[tuple[str, str, str], int]
) -> list[str]:
    if figures is None:
        return [check.text for check in stage.checks if not check.held]
    unmet = evidence.missing(counted, PRIMARY, demands.met_by)
    return [*complaints(figures, demands, stage.checks), *([] if unmet is None else [unmet])]


def _counts(figures: Figures | None) -> list[str]:
    return [] if figures is None else [f"{count} {what}" for what, count in sorted(figures.notes.items())]


async def _healed(system: HoldfastUnderTest) -> str | None:
    """Bring everything back for the next scenario. What is broken if that took a new start."""
    try:
        await heal(system)
    except RunError as error:
        await system.stop()
        await system.start()
        return f"afterwards {error}"
    return None


async def heal(system: HoldfastUnderTest) -> None:
    """Everything as it was at the start; raises `RunError` if it doesn't become so."""
    await system.until(lambda: _tried(system, "DELETE", "/v2/holdfast/faults"), "faults can be ended", within_s=60)
    if await system.whole():
        return
    for model in system.arguments["models"]:
        for version in model["versions"]:
            body = {"parameters": {"version": version}}
            await system.ask("POST", f"/v2/repository/models/{model['name']}/load", body, timeout_s=150)
    await system.until(system.whole, "everything is back", within_s=_WHOLE_TIMEOUT_S)


async def _tried(system: HoldfastUnderTest, method: str, path: str) -> bool:
    try:
        await system.ask(method, path)
    except RunError:
        return False
    return True


async def _end(plan: Plan, setup: str, system: HoldfastUnderTest) -> list[Result]:
    found = await system.stop()
    if plan.protection is not None:
        return []  # its scenarios are to fail; how it ends is another matter
    return [Result(f"({setup}: the end)", None, found)] if found else []


def as_json(plan: Plan, results: Sequence[Result]) -> Mapping[str, object]:
    """The figures of a run."""
    return {
        "seed": plan.seed,
        "seconds": plan.pace.seconds,
        "without": plan.protection,
        "scenarios": [_row(result) for result in results],
    }


def _row(result: Result) -> Mapping[str, object]:
    found = result.figures
    row: dict[str, object] = {"name": result.name, "held": result.held, "complaints": list(result.complaints)}
    row["notes"] = list(result.notes)
    if found is None:
        return row
    milliseconds = {
        "calm_p50_ms": found.calm_p50_s,
        "calm_p99_ms": found.calm_p99_s,
        "fault_p50_ms": found.fault_p50_s,
        "fault_p99_ms": found.fault_p99_s,
    }
    return row | {
        "requests": found.requests,
        "kinds": {kind.value: count for kind, count in found.kinds.items()},
        "notes_counted": found.notes,
        "recoveries_s": [None if seconds is None else round(seconds, 3) for seconds in found.recoveries_s],
        # JSON has no NaN: what wasn't measured is null
        **{key: None if math.isnan(seconds) else round(seconds * 1000, 3) for key, seconds in milliseconds.items()},
    }
