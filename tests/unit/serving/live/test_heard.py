"""What a real gateway says of itself is what is heard, and a breaker that a person closes is closed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from models.registry import Registry
from serving.gateway import Gateway
from serving.live import merge
from serving.live.heard import Heard, StatusHeard
from serving.live.series import SeriesPage
from serving.live.setup import at_least
from serving.model_settings import AutoscalingSettings, BreakerSettings, ModelSettings, UsePriorVersion
from serving.routing.table import EMPTY, Split
from serving.settings import GatewaySettings, Settings
from serving.status import gateway_status
from tests.fakes import FakeClock, FakeLink, FakeReplica, publish_version

SETTINGS = Settings(
    models=(
        ModelSettings(
            name="m",
            versions=("v1", "v2"),
            breaker=BreakerSettings(min_calls=1),
            fallback=(UsePriorVersion(version="v1"),),
        ),
    )
)


class Rig:
    """A gateway that serves ``m``: ``v2`` by default, and its canary ``v3`` with a quarter of the requests."""

    def __init__(self, clock: FakeClock, folder: Path) -> None:
        self.clock = clock
        self.registry = Registry(folder)
        self.gateway = Gateway(SETTINGS, link=self._link, read_manifest=self.registry.manifest, clock=clock)

    async def _link(self, model: str, version: str) -> FakeLink:
        return FakeLink(self.clock)

    async def start(self) -> None:
        table = EMPTY
        for version in ("v1", "v2", "v3"):
            digest = publish_version(self.registry, "m", version, version.encode()).digest
            table = table.with_version("m", version, digest, stable=version == "v2")
        table = table.without_version("m", "v0", reason="it is rotten")
        route = msgspec.structs.replace(table.models["m"], split=Split(version="v3", weight=0.25, epoch="m-1"))
        await self.gateway.apply(msgspec.structs.replace(table, models={"m": route}))

    def heard(self) -> Heard:
        status = gateway_status(self.gateway, cache=None, clock=self.clock)
        over_there = msgspec.json.decode(msgspec.json.encode(status), type=StatusHeard)
        assert over_there == msgspec.convert(status, StatusHeard)
        return Heard(8100, over_there, SeriesPage(gateway="g", since=0, until=0))

    def trip(self, version: str) -> None:
        self.gateway.version("m", version).served.attempts.breaker.admit().failed(0.1)


@pytest.fixture
def rig(clock: FakeClock, tmp_path: Path) -> Rig:
    return Rig(clock, tmp_path)


async def test_all_of_it_is_heard(clock: FakeClock, rig: Rig) -> None:
    await rig.start()
    rig.gateway.version("m", "v2").lane.attach(FakeReplica("r1"))
    rig.trip("v2")
    [found] = merge.models([rig.heard()])
    v0, v1, v2, v3 = found.versions
    assert (found.name, found.stable, found.admission.limit > 0) == ("m", "v2", True)
    assert [(each.version, each.role, each.weight) for each in (v0, v1, v2, v3)] == [
        ("v0", "unavailable", 0.0),
        ("v1", "standby", 0.0),
        ("v2", "stable", 0.75),
        ("v3", "canary", 0.25),
    ]
    assert (v0.reason, [use.name for use in found.fallbacks]) == ("it is rotten", ["version v1"])
    assert (v2.breaker.state, v2.breaker.opened, "1 of 1 calls failed" in v2.breaker.why) == ("open", 1, True)
    assert [(replica.id, replica.live, replica.pid) for replica in v2.replicas] == [("r1", True, 4001)]
    await rig.gateway.close()


async def test_a_person_closes_a_breaker_once(clock: FakeClock, rig: Rig) -> None:
    await rig.start()
    rig.trip("v2")
    assert [rig.gateway.close_breaker("m", "v2") for _ in range(2)] == [True, False]
    assert rig.gateway.close_breaker("m", "v9") is None
    [found] = merge.models([rig.heard()])
    assert found.versions[2].breaker.why == "closed by hand"
    await rig.gateway.close()


async def test_what_is_counted_for_the_metrics_is_heard_with_the_canarys_weight(clock: FakeClock, rig: Rig) -> None:
    await rig.start()
    assert rig.gateway.canary_weights == {"m": 0.25}
    await rig.gateway.close()


def test_with_autoscaling_no_more_gateways_are_expected_than_there_always_are() -> None:
    assert at_least(GatewaySettings(replicas=3)) == 3
    scaled = GatewaySettings(replicas=3, autoscaling=AutoscalingSettings(min_replicas=2, max_replicas=4))
    assert at_least(scaled) == 2
