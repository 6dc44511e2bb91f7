"""A gateway looks at values by the manifest of the version that answers, and keeps what went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from models.quality import InputQuality
from models.registry import Registry
from serving.errors import BadQuality, RequestError
from serving.gateway import Gateway
from serving.incidents.keeper import Keeper
from serving.incidents.setup import open_incidents, privacy_of, store_folder
from serving.incidents.store import IncidentStore, Wanted
from serving.model_settings import InputQualitySettings, ModelSettings
from serving.request.pipeline import InferCall, Pipeline
from serving.routing.table import EMPTY, RoutingTable, Split
from serving.settings import IncidentSettings, Settings
from serving.status import gateway_status
from tests.fakes import FakeClock, FakeLink, half, publish_version
from tests.unit.serving.request.test_pipeline import Records

Mode = Literal["off", "count", "reject"]


class Site:
    """Serves ``m``: v1 expects values up to 1, v2 up to 10, v3 any."""

    def __init__(self, clock: FakeClock, folder: Path, mode: Mode, **incidents: Any) -> None:
        registry = Registry(folder / "models")
        self.digests = {
            version: publish_version(registry, "m", version, version.encode(), quality=quality).digest
            for version, quality in (
                ("v1", (InputQuality(input="x", max=1),)),
                ("v2", (InputQuality(input="x", max=10),)),
                ("v3", ()),
            )
        }
        model = ModelSettings(name="m", versions=("v1",), input_quality=InputQualitySettings(mode=mode))
        self.settings = Settings(
            state_dir=str(folder / "state"), models=(model,), incidents=IncidentSettings(**incidents)
        )
        self.clock = clock
        self.gateway = Gateway(self.settings, link=self._link, read_manifest=registry.manifest, clock=clock)
        self.keeper: Keeper | None = open_incidents(self.settings, self.gateway, clock=clock, random=half)
        self.pipeline = Pipeline(self.gateway, Records(), clock=clock, observer=self.keeper)

    async def _link(self, model: str, version: str) -> FakeLink:
        return FakeLink(self.clock)

    async def serve(self, stable: str, split: Split | None = None) -> None:
        table = RoutingTable(self.gateway.table.generation, EMPTY.models)
        for version, digest in self.digests.items():
            table = table.with_version("m", version, digest, stable=version == stable)
        if split is not None:
            table = table.with_split("m", split)
        await self.gateway.apply(RoutingTable(self.gateway.table.generation + 1, table.models))

    async def refused(self, value: float, version: str | None = None) -> bool:
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, value]}
        try:
            await self.pipeline.infer(InferCall("m", version, json.dumps({"inputs": [tensor], "id": "7"}).encode()))
        except BadQuality:
            return True
        except RequestError:
            return False
        return False

    async def close(self) -> None:
        await self.gateway.close()
        if self.keeper is not None:
            assert self.keeper.close(within_s=20.0)

    def kept(self) -> list[tuple[str, str, str, str]]:
        """From the file: what a gateway that starts anew would find."""
        store = IncidentStore(store_folder(self.settings), max_bytes=1 << 20, max_number=10)
        lines = store.page(Wanted()).incidents
        return [(line.version, line.outcome, line.failure, line.rollout) for line in reversed(lines)]


async def test_values_are_judged_by_the_version_that_answers_also_when_it_changes(
    clock: FakeClock, tmp_path: Path
) -> None:
    here = Site(clock, tmp_path, "reject", enabled=False)
    await here.serve("v1")
    decoder = here.gateway.route("m", None).decoder
    assert await here.refused(2)
    assert not await here.refused(1)
    assert [await here.refused(2, version) for version in ("v1", "v2", "v3")] == [True, False, False]
    await here.serve("v2")
    assert here.gateway.route("m", None).decoder is decoder  # requests that are under way find the same one
    assert not await here.refused(2)
    assert await here.refused(11)
    await here.serve("v3")
    assert not await here.refused(1e9)
    counts = here.gateway.planner.quality["m"]
    assert (dict(counts.values), counts.requests) == ({("x", "above_max"): 3}, 3)
    await here.close()


async def test_by_default_a_value_is_counted_and_the_request_answered(clock: FakeClock, tmp_path: Path) -> None:
    here = Site(clock, tmp_path, ModelSettings(name="m", versions=("v1",)).input_quality.mode)
    await here.serve("v1")
    assert not await here.refused(2)
    assert here.gateway.planner.quality["m"].requests == 1
    await here.close()


async def test_with_the_switch_off_nobody_looks(clock: FakeClock, tmp_path: Path) -> None:
    here = Site(clock, tmp_path, "off")
    await here.serve("v1")
    assert here.gateway.route("m", None).quality is None
    assert here.gateway.planner.quality == {}
    await here.close()


async def test_what_went_wrong_outlasts_the_gateway(clock: FakeClock, tmp_path: Path) -> None:
    here = Site(clock, tmp_path, "reject")
    await here.serve("v1", Split(version="v2", weight=0.5, epoch="m-4"))
    assert await here.refused(2)
    await here.close()
    status = gateway_status(here.gateway, cache=None, clock=clock, incidents=here.keeper)["incidents"]
    assert (status["stored"], status["waiting"], status["dropped"]) == (1, 0, {"unwritten": 0})
    assert status["kept"] == {"m": {"input_quality": 1}}
    assert here.kept() == [("v1", "input_quality", "input_quality", "m-4")]


async def test_with_incidents_off_there_is_no_observer_and_no_file(clock: FakeClock, tmp_path: Path) -> None:
    here = Site(clock, tmp_path, "reject", enabled=False)
    await here.serve("v1")
    assert await here.refused(2)
    assert here.keeper is None
    assert not store_folder(here.settings).exists()
    await here.close()


async def test_a_function_that_can_not_be_had_lets_no_value_through(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = Site(clock, tmp_path, "reject", redaction="no.such.module:function")
    await here.serve("v1")
    assert await here.refused(2)
    await here.close()
    store = IncidentStore(store_folder(here.settings), max_bytes=1 << 20, max_number=10)
    found = store.get(1)
    assert found is not None
    assert ([tensor.raw for tensor in found.inputs], found.fault) == ([None], "")
    assert "incidents are kept without values" in caplog.text


def test_a_models_settings_say_what_is_private() -> None:
    model = ModelSettings(name="m", versions=("v1",), sensitive=True, redact=("x", "y"))
    assert privacy_of(model) == (True, frozenset({"x", "y"}))
