"""How a model's settings become what answers for it, while its versions come and go."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fallbacks.chain import Question, Unusable
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.cache.tiers import PredictionCache
from serving.errors import ModelNotFound, NoAnswer, ReplicaUnavailable
from serving.gateway import Gateway
from serving.model_settings import ModelSettings, ShadowSettings, UseCache, UseModel, UsePriorVersion, UseStatic
from serving.plans import chain_fault, shadow_fault
from serving.request.pipeline import InferCall, Pipeline, Reply
from serving.routing.table import EMPTY, RoutingTable, Split
from serving.settings import Settings
from serving.status import gateway_status
from tests.fakes import DOUBLE, FakeClock, FakeLink, publish_version, request_of, settled
from tests.unit.serving.request.test_pipeline import Records

STATIC = UseStatic(outputs={"y": [0, 0]})


class Site:
    """A gateway for ``m`` (v1, v2) and ``lite`` (v1), of which a test says what is served."""

    def __init__(self, clock: FakeClock, folder: Path, *chain: Any, **more: Any) -> None:
        self.registry = Registry(folder)
        self.clock = clock
        self.digests = {
            f"{model}@{version}": publish_version(self.registry, model, version, deterministic=True).digest
            for model, version in (("m", "v1"), ("m", "v2"), ("lite", "v1"))
        }
        model = ModelSettings(name="m", versions=("v1", "v2"), stable="v2", fallback=chain, **more)
        self.settings = Settings(models=(model, ModelSettings(name="lite", versions=("v1",))))
        self.cache = PredictionCache(None, None, clock=clock)
        self.gateway = Gateway(
            self.settings, link=self._link, read_manifest=self.registry.manifest, clock=clock, cache=self.cache
        )
        self.pipeline = Pipeline(self.gateway, Records(), clock=clock)
        self.table = EMPTY

    async def _link(self, model: str, version: str) -> FakeLink:
        return FakeLink(self.clock)

    async def serve(self, *names: str, stable: str = "m@v2") -> None:
        """From now on these versions, and no others."""
        table = RoutingTable(self.table.generation)
        for name in names:
            model, version = name.split("@")
            table = table.with_version(model, version, self.digests[name], stable=name == stable)
        self.table = RoutingTable(self.table.generation + 1, table.models)
        await self.gateway.apply(self.table)

    async def ask(self, version: str | None = None, *, timeout_s: float = 10.0) -> Reply:
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        body = {"inputs": [tensor], "parameters": {"timeout": int(timeout_s * 1e6)}}
        return await self.pipeline.infer(InferCall("m", version, json.dumps(body).encode()))

    async def who(self, version: str | None = None) -> str:
        given = (await self.ask(version)).given
        kind = "" if given.origin is None else f" ({given.origin.kind})"
        return f"{given.model}@{given.version}{kind}"


async def test_whoever_is_next_in_the_chain_and_there_answers(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, UsePriorVersion(version="v1"), UseModel(model="lite"), STATIC)
    await site.serve("m@v1", "m@v2", "lite@v1")
    assert await site.who() == "m@v2"
    await site.serve("m@v1", "lite@v1", stable="")
    assert await site.who() == "m@v1"  # the control plane has made v1 the stable one: it isn't a stand-in
    await site.serve("lite@v1")
    assert await site.who() == "lite@v1 (model)"
    await site.serve()
    assert await site.who() == "m@static (static)"
    await site.gateway.close()


async def test_while_its_first_version_is_being_brought_up_its_chain_answers(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, STATIC)
    await site.serve("lite@v1")
    serving = asyncio.ensure_future(site.serve("m@v2", "lite@v1"))
    await settled()
    assert not serving.done()
    assert await site.who() == "m@static (static)"
    await serving
    assert await site.who() == "m@v2"
    await site.gateway.close()


async def test_a_version_that_can_not_be_reached_is_stood_in_for_by_another(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, UsePriorVersion(version="v1"))
    await site.serve("m@v1", "m@v2")
    link = site.gateway.version("m", "v2").link
    assert isinstance(link, FakeLink)
    link.replicas = 0
    assert await site.who() == "m@v1 (version)"
    await site.gateway.close()


async def test_a_defect_in_a_chain_is_logged(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(clock, tmp_path, STATIC)
    await site.serve()
    vars(site.gateway.planner.models["m"].chain.strategies[0]).clear()
    with pytest.raises(NoAnswer, match=r"static: internal error$"):
        await site.ask()
    assert "model 'm': a defect in the fallback 'static'" in caplog.text
    assert "AttributeError" in caplog.text
    await site.gateway.close()


async def test_a_version_that_leaves_the_table_takes_no_request_with_it(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    await site.serve("m@v1", "m@v2")
    link = site.gateway.version("m", "v2").link
    assert isinstance(link, FakeLink)
    link.gate.clear()  # v2 never answers again
    task = asyncio.ensure_future(site.ask(timeout_s=60))
    pinned = asyncio.ensure_future(site.ask("v2", timeout_s=60))
    await settled()
    await site.serve("m@v1", stable="m@v1")
    given = (await task).given
    assert (given.version, given.origin) == ("v1", None)
    with pytest.raises(ReplicaUnavailable):
        await pinned
    await site.gateway.close()


async def test_who_names_a_version_gets_that_one_or_none(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, STATIC)
    await site.serve("m@v1", "m@v2")
    assert await site.who("v1") == "m@v1"
    await site.serve("m@v2")
    with pytest.raises(ModelNotFound, match="no version 'v1' loaded"):
        await site.ask("v1")
    await site.gateway.close()


async def test_a_model_without_a_chain_and_without_versions_is_not_found(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    await site.serve("lite@v1")
    with pytest.raises(ModelNotFound, match="isn't served here"):
        await site.ask()
    await site.gateway.close()


async def test_when_everyone_is_gone_the_reasons_are_told(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, UsePriorVersion(version="v1"), UseModel(model="lite"), UseCache())
    await site.serve()
    with pytest.raises(NoAnswer) as caught:
        await site.ask()
    assert caught.value.message == (
        "no version of model 'm' is served now; version v1: it isn't served; model lite: it isn't served; "
        "cache: no answer to these inputs that may still be given"
    )
    await site.gateway.close()


async def test_what_a_model_has_learnt_of_its_load_outlives_its_versions(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, STATIC)
    await site.serve("m@v1", "m@v2")
    admission = site.gateway.route("m", None).admission
    await site.serve("m@v1", stable="m@v1")
    assert site.gateway.route("m", None).admission is admission
    assert site.gateway.route("m", "v1").admission is admission
    await site.serve()
    assert site.gateway.route("m", None).admission is admission
    await site.gateway.close()


async def test_replicas_hear_of_requests_that_wait_to_be_let_in(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, STATIC)
    await site.serve("m@v1", "m@v2")
    plan = site.gateway.route("m", None)
    permits = [permit for _ in range(plan.admission.limit) if (permit := plan.admission.try_admit(1, clock.now + 60))]
    waiting = asyncio.ensure_future(plan.admission.admit(1, clock.now + 60))
    await settled()
    stable, other = (site.gateway.version("m", version).lane for version in ("v2", "v1"))
    assert (stable.waiting_elsewhere(), other.waiting_elsewhere()) == (1, 0)
    for permit in permits:
        permit.ignored()
    (await waiting).ignored()
    await site.gateway.close()


async def test_the_status_tells_of_everything_that_protects(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, UsePriorVersion(version="v1"), STATIC)
    await site.serve("m@v1", "m@v2")
    await site.who()
    status = gateway_status(site.gateway, cache=site.cache, clock=clock)
    model = status["models"]["m"]
    assert (model["stable"], [entry["type"] for entry in model["fallback"]]) == ("v2", ["version", "static"])
    assert model["admission"]["inflight"] == 0
    version = model["versions"]["v2"]
    assert (version["breaker"]["state"], version["attempts"]) == ("closed", {"ok": 1})
    assert model["canary"] is None
    assert json.loads(json.dumps(status)) == status
    await site.gateway.close()


async def test_the_status_shows_a_canary_and_how_it_does(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    await site.serve("m@v1", "m@v2")
    split = Split(version="v1", weight=1.0, epoch="r1", objective_s=0.5)
    table = site.table.with_split("m", split)
    await site.gateway.apply(table)
    await site.who()
    shown = gateway_status(site.gateway, cache=site.cache, clock=clock)["models"]["m"]["canary"]
    (at,) = shown.pop("weights")
    assert (at["weight"], at["canary"]["attempts"], at["stable"]["attempts"]) == (1.0, 1, 0)
    assert shown == {
        "version": "v1",
        "epoch": "r1",
        "weight": 1.0,
        "ended": False,
        "fault": None,
        "stickiness": "key",
        "objective_s": 0.5,
        "bad_keys": 0,
        "keys_full": False,
    }
    await site.gateway.apply(table.with_split("m", None))
    ended = gateway_status(site.gateway, cache=site.cache, clock=clock)["models"]["m"]["canary"]
    assert (ended["weight"], ended["ended"], ended["stickiness"]) == (0.0, True, None)
    await site.gateway.close()


async def test_what_was_shed_is_not_carried_to_a_version_that_is_busy_itself(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path, UsePriorVersion(version="v1"))
    await site.serve("m@v1", "m@v2")
    (prior,) = site.gateway.route("m", None).chain.strategies  # type: ignore[union-attr]
    question = Question(request_of(1, 2), clock.now + 9, shed=True)
    assert (await prior.answer(question)).version == "v1"
    lane = site.gateway.version("m", "v1").lane
    link = site.gateway.version("m", "v1").link
    assert isinstance(link, FakeLink)
    link.gate.clear()
    busy = [lane.submit(request_of(1), clock.now + 9) for _ in range(2)]
    with pytest.raises(Unusable, match="enough to do"):
        await prior.answer(question)
    link.gate.set()
    await asyncio.gather(*(pending.answer for pending in busy))
    await site.gateway.close()


def signatures(**known: Signature) -> Any:
    return lambda model, version: known.get(version or model)


WHOLE = Signature(DOUBLE.inputs, (TensorSpec("y", "INT64", (-1, 2)),), batched=True)
NARROW = Signature((TensorSpec("x", "FP32", (-1, 3)),), DOUBLE.outputs, batched=True)


@pytest.mark.parametrize(
    ("chain", "fault"),
    [
        ((UsePriorVersion(version="v1"), UseModel(model="lite")), None),
        ((UseModel(model="narrow"),), "fallback[0].model: 'narrow' can't stand in: its input 'x'"),
        ((UseCache(), UsePriorVersion(version="v0")), "fallback[1].version: 'v0' can't stand in"),
        ((UseStatic(outputs={"y": [1]}),), "fallback[0].outputs.y: 1 elements where 2 are needed"),
        ((UseModel(model="unheard-of"),), None),
    ],
)
def test_a_chain_that_the_signatures_forbid_is_told_by_its_key(chain: Any, fault: str | None) -> None:
    settings = ModelSettings(name="m", versions=("v0", "v1", "v2"), fallback=chain)
    found = chain_fault(settings, DOUBLE, signatures(v1=DOUBLE, lite=DOUBLE, narrow=NARROW, v0=NARROW))
    assert (found is None) if fault is None else (found is not None and found.startswith(fault))


@pytest.mark.parametrize(
    ("shadow", "fault"),
    [
        ({"model": "lite"}, None),
        ({"version": "v1"}, None),
        ({"model": "unheard-of"}, None),
        ({"model": "narrow"}, "shadow.model: 'narrow' can't be asked the same: its input 'x'"),
        ({"version": "v0"}, "shadow.version: 'v0' can't be asked the same: its input 'x'"),
        ({"model": "lite", "compare": "distance"}, None),
        ({"model": "whole", "compare": "distance"}, "shadow.compare: a distance needs an output of floats"),
    ],
)
def test_a_shadow_that_the_signatures_forbid_is_told_by_its_key(
    tmp_path: Path, shadow: dict[str, Any], fault: str | None
) -> None:
    settings = ModelSettings(name="m", versions=("v0", "v1", "v2"), shadow=ShadowSettings(**shadow))
    signature = WHOLE if fault and "floats" in fault else DOUBLE
    manifest = msgspec.structs.replace(publish_version(Registry(tmp_path), "m", "v2"), signature=signature)
    found = shadow_fault(settings, manifest, signatures(v1=DOUBLE, lite=DOUBLE, narrow=NARROW, v0=NARROW, whole=WHOLE))
    assert (found is None) if fault is None else (found is not None and found.startswith(fault))
