"""Every query of every dashboard, run against a Prometheus that scrapes a system with something to show.

It has a shadow that failed and was too slow, a cache, and a client that sends a wrong value now and then; it had a
version rolled back, a breaker open and more asked of it than it could do, and has a canary that waits for a person. A
query counts if it gave a number at any moment since the start.
"""

import asyncio
import contextlib
import itertools
import json
import math
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from loadtests.alerts import files
from loadtests.alerts.prometheus import Prometheus, prometheus
from loadtests.alerts.queries import Query, queries_of
from loadtests.chaos.spec import System
from loadtests.chaos.world import LITE, MODEL, arguments
from loadtests.resilience.answers import STATIC_OUTPUTS, digit_documents
from loadtests.resilience.client import NoReply, encode
from loadtests.resilience.errors import RunError
from loadtests.resilience.system import HoldfastUnderTest
from loadtests.rollouts.admin import OVER, Rollouts
from loadtests.rollouts.files import rollout_file
from loadtests.rollouts.store import digit_images, make_store

Say = Callable[[str], None]

BAD: Final = "fails-30"
BETTER: Final = "v2"
SCRAPE_S: Final = 1.0
STEP_S: Final = 2.0
_PERIOD_S: Final = 0.02
_IMAGES: Final = 200
_NO_PIXEL: Final = 99.0
_CROWD: Final = 600
_FAULT_S: Final = 6.0
_ROLLOUT_S: Final = 90.0
_SETTLE_S: Final = 12.0
"""So long the last state is scraped, for rates over half a minute have to see it."""


async def missing(store: Path, say: Say) -> list[str]:
    """A line for each query without data, and each that Prometheus refuses. Raises `RunError`."""
    async with _system(store) as system:
        say("the system is ready")
        rules = {name: files.rules(name) for name in files.RULES}
        async with prometheus(system.port, rules, every_s=SCRAPE_S) as running:
            since = time.time()
            await _history(system, say)
            return [*await _ran(running, since, say), *await _ill_rules(running)]


@contextlib.asynccontextmanager
async def _system(source: Path) -> AsyncIterator[HoldfastUnderTest]:
    if not (source / MODEL).is_dir():
        raise RunError(f"no models in {source}: `python -m models.zoo --store {source}` makes them")
    with tempfile.TemporaryDirectory(prefix="hfa-store-", dir="/tmp") as folder:
        store = Path(folder) / "models"
        images, _ = digit_images()
        await make_store(source, store, [BAD], images)
        (store / LITE).symlink_to((source / LITE).resolve())
        async with HoldfastUnderTest(_arguments(store)) as system:
            yield system


def _arguments(store: Path) -> dict[str, Any]:
    digits = {
        "shadow": {"model": LITE, "share": 0.5},
        "fallback": [{"type": "cache"}, {"type": "static", "outputs": dict(STATIC_OUTPUTS)}],
    }
    return arguments(System(stable="v1", digits=digits), store=store, redis_url=None, event_log=None)


async def _history(system: HoldfastUnderTest, say: Say) -> None:
    """Something of everything that a dashboard shows."""
    traffic = asyncio.get_running_loop().create_task(_traffic(system))
    rollouts = Rollouts(system.pool)
    try:
        say(f"a rollout of {BAD}, which is taken back")
        await rollouts.start(rollout_file(BAD, steps=(50, 100), pause="30s"))
        await rollouts.until("it is over", lambda one: one["phase"] in OVER and one["settled"], within_s=_ROLLOUT_S)
        say("the stable version fails for a while")
        await _hurt(system, MODEL, {"fail_rate": 1.0})
        await asyncio.sleep(_FAULT_S)
        say("the shadow fails and is too slow for a while, and a crowd comes")
        await _hurt(system, LITE, {"fail_rate": 0.5, "slow_ms": 500.0})
        await _crowd(system)
        await asyncio.sleep(_FAULT_S)
        say(f"a rollout of {BETTER}, which waits for a person")
        await rollouts.start(rollout_file(BETTER, steps=(25, 100), pauses={25: None}))
        await rollouts.until("it waits", lambda one: one["phase"] == "Paused", within_s=_ROLLOUT_S)
        await asyncio.sleep(_SETTLE_S)
    finally:
        traffic.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await traffic


async def _hurt(system: HoldfastUnderTest, model: str, fault: Mapping[str, Any]) -> None:
    """All replicas of its first version, for a while."""
    fault = {**fault, "for_s": _FAULT_S}
    await system.ask("POST", "/v2/holdfast/faults", {"model": model, "version": "v1", "fault": fault})


def _requests() -> list[bytes]:
    """Of digits, and of one that has a value no digit has."""
    documents = digit_documents()[:_IMAGES]
    bad = json.loads(documents[0])
    bad["inputs"][0]["data"][0] = _NO_PIXEL
    path = f"/v2/models/{MODEL}/infer"
    return [encode("POST", path, document) for document in (*documents, json.dumps(bad).encode())]


async def _traffic(system: HoldfastUnderTest) -> None:
    """One request after the other, fifty a second at most, until it is cancelled."""
    for request in itertools.cycle(_requests()):
        await _send(system, request)
        await asyncio.sleep(_PERIOD_S)


async def _crowd(system: HoldfastUnderTest) -> None:
    """Many at once."""
    requests = itertools.islice(itertools.cycle(_requests()), _CROWD)
    await asyncio.gather(*(_send(system, request) for request in requests))


async def _send(system: HoldfastUnderTest, request: bytes) -> None:
    with contextlib.suppress(NoReply):  # what comes of it, the system counts
        await system.pool.send(request, timeout_s=15.0)


async def _ran(running: Prometheus, since: float, say: Say) -> list[str]:
    complaints = []
    for name, dashboard in files.dashboards().items():
        queries = list(queries_of(dashboard))
        found = [complaint for query in queries if (complaint := await _complaint(running, query, since))]
        say(f"{name}: {len(queries) - len(found)} of {len(queries)} queries give data")
        complaints += [f"{name}: {complaint}" for complaint in found]
    return complaints


async def _complaint(running: Prometheus, query: Query, since: float) -> str:
    try:
        series = await running.range(query.filled, since=since, until=time.time(), step_s=STEP_S)
    except (RunError, ValueError) as error:
        return f"{query.panel}: {error}"
    if query.label and not all(one["metric"].get(query.label) for one in series):
        return f"{query.panel}: no label {query.label} in {query.filled}"
    return "" if _has_numbers(series) else f"{query.panel}: no data for {query.filled}"


def _has_numbers(series: Iterable[Mapping[str, Any]]) -> bool:
    return any(math.isfinite(float(value)) for one in series for _, value in one["values"])


async def _ill_rules(running: Prometheus) -> list[str]:
    """Rules that Prometheus couldn't evaluate, and alerts whose words couldn't be filled in."""
    found = []
    for group in (await running.ask("rules"))["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                found.append(f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
            found += [
                f"alert {rule['name']}: {alert['annotations']}"
                for alert in rule.get("alerts", ())
                if "error expanding" in " ".join(alert["annotations"].values())
            ]
    return found
