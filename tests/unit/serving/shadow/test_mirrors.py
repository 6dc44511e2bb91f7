"""The settings and the routing table say what is mirrored to whom; a gateway does it, and tells of it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.golden import GOLDEN_FILE, Example, write_examples
from models.manifest import FileDigest
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.cluster import StartError
from serving.errors import ModelNotFound
from serving.model_settings import ModelSettings, ShadowSettings, UsePriorVersion
from serving.routing.table import RoutingTable
from serving.settings import Settings
from serving.shadow.compare import Close, SameLabel, Within
from serving.shadow.counts import EXPECTED_MIN
from serving.shadow.mirrors import rule_from
from serving.status import gateway_status
from serving.up import _wanted
from tests.fakes import DOUBLE, FakeClock, FakeLink, publish_version, settled
from tests.unit.serving.test_plans import Site

EVERYTHING = ("m@v1", "m@v2", "lite@v1")


def shadowed(clock: FakeClock, folder: Path, *chain: Any, **shadow: Any) -> Site:
    """``m``, whose settings name a shadow to which everything is mirrored."""
    return Site(clock, folder, *chain, shadow=ShadowSettings(**{"share": 1.0, **shadow}))


async def mirror(site: Site, version: str, share: float = 1.0) -> None:
    """As a rollout would ask for it."""
    site.table = site.table.with_mirror("m", version, share)
    await site.gateway.apply(site.table)


def counted(site: Site) -> dict[str, tuple[int, int]]:
    """Of every mirror, requests mirrored and rows that agreed."""
    counts = site.gateway.mirrors.counts()
    return {f"{found.model} > {found.shadow}": (found.mirrored, found.agreed_rows) for found in counts}


def link_of(site: Site, model: str, version: str) -> FakeLink:
    link = site.gateway.version(model, version).link
    assert isinstance(link, FakeLink)
    return link


@pytest.mark.parametrize(("shadow", "name"), [({"model": "lite"}, "lite"), ({"version": "v1"}, "m@v1")])
async def test_what_the_settings_name_is_asked_too(
    clock: FakeClock, tmp_path: Path, shadow: dict[str, Any], name: str
) -> None:
    site = shadowed(clock, tmp_path, **shadow)
    await site.serve(*EVERYTHING)
    for _ in range(3):
        assert await site.who() == "m@v2"
    await settled()
    assert counted(site) == {f"m > {name}": (3, 3)}
    await site.gateway.close()


async def test_without_a_shadow_there_is_nothing_on_the_way(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    await site.serve(*EVERYTHING)
    assert site.gateway.route("m", None).mirrors == ()
    assert site.gateway.mirrors.all == []
    await site.gateway.close()


async def test_only_answers_of_the_version_that_was_not_asked_for_by_name_are_mirrored(
    clock: FakeClock, tmp_path: Path
) -> None:
    site = shadowed(clock, tmp_path, UsePriorVersion(version="v1"), model="lite")
    await site.serve(*EVERYTHING)
    assert await site.who("v2") == "m@v2"
    link_of(site, "m", "v2").replicas = 0
    assert await site.who() == "m@v1 (version)"
    await settled()
    assert counted(site) == {"m > lite": (0, 0)}
    await site.gateway.close()


async def test_the_table_starts_and_stops_a_mirror_beside_that_of_the_settings(
    clock: FakeClock, tmp_path: Path
) -> None:
    site = shadowed(clock, tmp_path, model="lite")
    await site.serve(*EVERYTHING)
    await mirror(site, "v1")
    await site.who()
    await settled()
    assert counted(site) == {"m > lite": (1, 1), "m > m@v1": (1, 1)}
    site.table = site.table.without_mirror("m")
    await site.gateway.apply(site.table)
    await site.who()
    await settled()
    assert counted(site) == {"m > lite": (2, 2), "m > m@v1": (1, 1)}
    await mirror(site, "v1")
    await site.who()
    await settled()
    assert counted(site)["m > m@v1"] == (2, 2)  # it has gone on counting
    await site.gateway.close()


async def test_the_share_of_the_table_goes_before_that_of_the_settings(clock: FakeClock, tmp_path: Path) -> None:
    site = shadowed(clock, tmp_path, version="v1", share=0.5)
    await site.serve(*EVERYTHING)
    await mirror(site, "v1", 0.25)
    (only,) = site.gateway.mirrors.all
    assert only.share == 0.25
    assert site.gateway.route("m", None).mirrors == (only,)
    await site.gateway.close()


async def test_a_shadow_that_has_become_the_stable_version_is_none_any_more(clock: FakeClock, tmp_path: Path) -> None:
    site = shadowed(clock, tmp_path, version="v1")
    await site.serve(*EVERYTHING)
    await site.serve(*EVERYTHING, stable="m@v1")
    assert site.gateway.route("m", None).mirrors == ()
    assert [found.share for found in site.gateway.mirrors.all] == [0.0]
    await site.gateway.close()


async def test_a_version_that_leaves_takes_its_mirrored_requests_with_it(clock: FakeClock, tmp_path: Path) -> None:
    site = Site(clock, tmp_path)
    await site.serve(*EVERYTHING)
    await mirror(site, "v1")
    link_of(site, "m", "v1").gate.clear()
    await site.who()
    await settled()
    (only,) = site.gateway.mirrors.all
    assert only.under_way == 1
    site.table = site.table.without_version("m", "v1")
    await site.gateway.apply(site.table)
    assert (only.under_way, only.held_bytes, only.counts().cancelled) == (0, 0, 1)
    assert await site.who() == "m@v2"
    await site.gateway.close()


async def test_when_the_gateway_closes_nothing_that_was_mirrored_is_left(clock: FakeClock, tmp_path: Path) -> None:
    site = shadowed(clock, tmp_path, model="lite")
    await site.serve(*EVERYTHING)
    link_of(site, "lite", "v1").gate.clear()
    for _ in range(20):
        await site.who()
    await settled()
    await site.gateway.close()  # the loop's own check finds tasks that are left behind
    (only,) = site.gateway.mirrors.all
    assert (only.share, only.under_way, only.waiting, only.held_bytes) == (0.0, 0, 0, 0)
    assert only.counts().cancelled + only.counts().dropped["stopped"] == 20


async def test_the_status_tells_of_the_shadow_and_its_alarm(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "holdfast.shadow")
    site = shadowed(clock, tmp_path, model="lite", silent_after_s=5)
    await site.serve("m@v2")
    for _ in range(EXPECTED_MIN):
        await site.who()
        await settled()
    clock.advance(5)
    site.gateway.mirrors.look()
    status = gateway_status(site.gateway, cache=site.cache, clock=clock)
    (entry,) = status["models"]["m"]["shadows"]
    assert (entry["shadow"], entry["silent"], entry["dropped"]) == ("lite", True, {"not_served": EXPECTED_MIN})
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    assert "the shadow lite of m answers nothing" in caplog.text
    await site.gateway.close()


@pytest.mark.parametrize(
    ("shadow", "labels", "rule"),
    [
        ({}, ("a", "b"), SameLabel()),
        ({}, None, Within(1e-4, 1e-3)),
        ({"compare": "label"}, None, SameLabel()),
        ({"compare": "tolerance"}, ("a", "b"), Within(1e-4, 1e-3)),
        ({"compare": "tolerance", "absolute_tolerance": 0.0, "relative_tolerance": 0.5}, None, Within(0.0, 0.5)),
        ({"compare": "distance"}, ("a", "b"), Close(0.1)),
        (
            {"compare": "distance", "distance": "jensen_shannon", "distance_max": 0.3},
            None,
            Close(0.3, "jensen_shannon"),
        ),
    ],
)
def test_answers_are_compared_as_the_settings_say_or_else_the_manifest(
    tmp_path: Path, shadow: dict[str, Any], labels: tuple[str, ...] | None, rule: object
) -> None:
    manifest = msgspec.structs.replace(publish_version(Registry(tmp_path), "m", "v1"), labels=labels)
    assert rule_from(ShadowSettings(model="lite", **shadow), manifest) == rule


def test_a_mirror_that_cannot_be_is_refused_by_the_table() -> None:
    table = RoutingTable().with_version("m", "v1", "sha256:1").with_version("m", "v2", "sha256:2")
    for version, share, text in (("v3", 1.0, "'v3'"), ("v1", 1.0, "'v1'"), ("v2", 0.0, "0"), ("v2", 1.5, "1.5")):
        with pytest.raises(ValueError, match=text):
            table.with_mirror("m", version, share)
    with pytest.raises(ModelNotFound, match="isn't served"):
        table.with_mirror("n", "v2", 1.0)


def test_a_shadow_that_takes_other_inputs_keeps_the_system_from_starting(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    publish_version(registry, "m", "v1")
    narrow = Signature((TensorSpec("x", "FP32", (-1, 3)),), DOUBLE.outputs, batched=True)
    example = Example((np.ones((1, 3), np.float32),), (np.ones((1, 2), np.float32),))
    files = {GOLDEN_FILE: write_examples([example], narrow), "model.onnx": b"weights"}
    digests = tuple(FileDigest(name, hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in sorted(files.items()))
    manifest = msgspec.structs.replace(registry.manifest("m", "v1"), model="lite", signature=narrow, files=digests)
    registry.publish(manifest, files)
    models = (
        ModelSettings(name="lite", versions=("v1",)),
        ModelSettings(name="m", versions=("v1",), shadow=ShadowSettings(model="lite")),
    )
    with pytest.raises(StartError, match=r"models\[1\].shadow.model: 'lite' can't be asked the same: its input 'x'"):
        _wanted(Settings(state_dir=str(tmp_path), models=models))
