"""A snapshot is put together of all that answers, and still is when others don't."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from serving.live.gathering import Gathering
from serving.live.heard import Heard, StatusHeard
from serving.live.history import History
from serving.live.series import Second, SeriesPage
from serving.live.snapshot import Admin, IncidentKept, Incidents, Snapshot
from serving.rollout.report import ControllerReport, Overview, report
from tests.fakes import WALL, FakeClock
from tests.rollouts import at_first_weight

VERSION = {
    "digest": "sha256:1",
    "ready": True,
    "breaker": {"state": "closed", "since": 1.0, "why": "", "opened": 0, "retry_after_s": 0.0},
    "replicas": [{"id": "r1", "live": True, "outstanding": 0, "pid": 5}],
}
STATUS = {
    "gateway": {"pid": 1, "time": 5.0, "accepting": True, "ready": True, "routing_table": 3},
    "models": {"digits": {"stable": "v1", "versions": {"v1": VERSION}}},
}


KEPT = Incidents(3, (IncidentKept(id=3, time=5.0, model="digits", version="v1", outcome="degraded", failure="no"),))


class Node:
    """Two gateways that count ten good answers a second each, and a control plane."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.alive = True
        self.controller = "writing"
        self.golden: dict[tuple[str, str], int] = {}
        self.wanted: dict[str, int] = {}
        self.status: dict[str, Any] = STATUS
        self.began = int(clock.wall())
        self.gathering = Gathering(
            own=lambda: self.heard(8101),
            siblings=self,
            control=self,
            golden=self.failed,
            kept=self.incidents,
            history=History((0.001, 0.01)),
            expected=2,
            wanted=self.wanted,
            admin=Admin(open=True, token=False),
            version="1.2.3",
            pid=77,
            clock=clock,
        )

    def heard(self, port: int) -> Heard:
        until = int(self.clock.wall())
        seconds = [Second(t, {"ok": 10}, {}, [10, 0, 0], 0.0) for t in range(self.began, until)]
        page = SeriesPage(gateway=str(port), since=self.began, until=until, models={"digits": seconds})
        return Heard(port, msgspec.convert(self.status, StatusHeard), page)

    async def ask(self) -> Sequence[Heard]:
        return [self.heard(8102)] if self.alive else []

    async def look(self) -> Overview:
        rollout = report(at_first_weight().state)
        return Overview(ControllerReport(self.controller), (rollout,), {"digits@v0": "bad"})

    async def failed(self) -> dict[tuple[str, str], int]:
        return self.golden

    async def incidents(self) -> Incidents:
        return KEPT

    async def gather(self) -> Snapshot:
        self.clock.advance(1.0)
        return await self.gathering.gather()


@pytest.fixture
def node(clock: FakeClock) -> Node:
    return Node(clock)


async def test_all_that_is_known_is_in_it(clock: FakeClock, node: Node) -> None:
    for _ in range(3):
        await node.gather()
    now = await node.gather()
    [digits] = now.models
    assert (now.time, now.holdfast.version, now.holdfast.pid, now.holdfast.uptime_s) == (WALL + 1004, "1.2.3", 77, 4.0)
    assert (now.gateways.seen, now.gateways.ports, now.verdict.state) == (2, (8101, 8102), "fine")
    assert (digits.rate, digits.ok, digits.errors) == (20, 20, 0)
    assert digits.p50_ms is not None
    assert digits.rollout is not None
    assert digits.rollout.rollout == "digits-1"
    assert (now.rolled_back, now.admin.open) == ({"digits@v0": "bad"}, True)


async def test_the_series_is_added_when_it_is_told(clock: FakeClock, node: Node) -> None:
    for _ in range(3):
        await node.gather()
    now = await node.gather()
    assert now.models[0].series.t == []
    series = node.gathering.with_series(now).models[0].series
    assert (series.t, series.ok) == ([WALL + 1000 + at for at in range(4)], [20] * 4)
    assert node.gathering.with_series(now, after=node.gathering.last).models[0].series.t == []


async def test_a_sibling_that_dies_leaves_its_past_a_verdict_and_an_event(clock: FakeClock, node: Node) -> None:
    await node.gather()
    node.alive = False
    now = await node.gather()
    assert (now.gateways.seen, now.verdict.state) == (1, "degraded")
    assert now.verdict.reasons == ("1 of 2 gateways is missing",)
    assert [event.text for event in now.events if event.kind == "gateway"] == ["a gateway went, from port 8102"]
    for _ in range(5):
        now = await node.gather()
    assert node.gathering.with_series(now).models[0].series.ok[0] == 20
    assert [event.kind for event in now.events].count("gateway") == 1


async def test_a_silent_control_plane_is_told_and_everything_else_too(clock: FakeClock, node: Node) -> None:
    await node.gather()
    node.controller = "silent"
    now = await node.gather()
    assert now.verdict.reasons[0].startswith("the control plane is silent")
    assert (now.models[0].rate, now.models[0].rollout is not None) == (20, True)
    assert "controller" in [event.kind for event in now.events]


async def test_the_newest_incidents_are_told(clock: FakeClock, node: Node) -> None:
    assert (await node.gather()).incidents == KEPT


async def test_replicas_that_should_be_there_and_are_not_are_missed(node: Node) -> None:
    assert (await node.gather()).verdict.reasons == ()
    there = len((await node.gather()).models[0].versions[0].replicas)
    node.wanted["digits"] = there + 2
    node.clock.advance(1.0)
    now = await node.gather()
    assert now.models[0].versions[0].wanted == there + 2
    assert f"digits@v1: 2 of {there + 2} replicas are missing" in now.verdict.reasons


async def test_failed_golden_checks_are_the_versions(clock: FakeClock, node: Node) -> None:
    await node.gather()
    node.golden = {("digits", "v1"): 3}
    now = await node.gather()
    assert now.models[0].versions[0].golden_failed == 3
    assert "digits@v1: a replica failed its golden self-test" in [event.text for event in now.events]


async def test_rollouts_tell_their_history_each_time(clock: FakeClock, node: Node) -> None:
    first, second = await node.gather(), await node.gather()
    assert [event.kind for event in first.events] == [event.kind for event in second.events]
    assert {event.kind for event in first.events} == {"rollout"}


async def test_no_model_at_all_is_fine(clock: FakeClock, node: Node) -> None:
    node.status = STATUS | {"models": {}}
    now = await node.gather()
    assert (now.models, now.verdict.state) == ((), "fine")
