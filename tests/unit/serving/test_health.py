"""A replica is healthy while its golden prediction holds and some gateway sends it work; being busy is no illness."""

from __future__ import annotations

import asyncio

import pytest

from serving.channel.reports import Reports
from serving.channel.work import Report
from serving.health import ReplicaHealth, Unhealthy, memory_limit_mb, own_memory_mb
from tests.fakes import FakeClock


class Golden:
    """A golden prediction that takes its time, and may be wrong."""

    def __init__(self) -> None:
        self.takes_s = 0.0
        self.wrong = False
        self.begun = 0

    async def __call__(self) -> None:
        self.begun += 1
        await asyncio.sleep(self.takes_s)
        if self.wrong:
            raise ValueError("7 where the golden example says 8")


class Rig:
    def __init__(self, clock: FakeClock) -> None:
        self.golden = Golden()
        self.reports = Reports()
        self.busy = True
        self.mb = 300.0
        self.health = ReplicaHealth(
            self.golden,
            self.reports,
            busy=lambda: self.busy,
            replace_after_s=10.0,
            clock=clock,
            max_memory_mb=512,
            memory_mb=lambda: self.mb,
        )


@pytest.fixture
def rig(clock: FakeClock) -> Rig:
    return Rig(clock)


async def test_a_wrong_golden_prediction_is_told(clock: FakeClock, rig: Rig) -> None:
    await rig.health.check()
    rig.golden.wrong = True
    with pytest.raises(ValueError, match="7 where the golden example says 8"):
        await rig.health.check()


async def test_a_check_that_waits_behind_requests_is_no_failure_and_tells_later(clock: FakeClock, rig: Rig) -> None:
    rig.golden.takes_s, rig.golden.wrong = 2.5, True
    began = clock.now
    await rig.health.check()
    assert clock.now - began < 1.1
    await rig.health.check()
    with pytest.raises(ValueError, match="7 where"):
        await rig.health.check()
    assert rig.golden.begun == 1


async def test_a_replica_that_every_gateway_keeps_out_is_replaced(clock: FakeClock, rig: Rig) -> None:
    rig.reports.heard("g1", Report(0.0, 30.0), now=clock.now)
    rig.reports.heard("g2", Report(0.0, 10.5), now=clock.now)
    with pytest.raises(Unhealthy, match=r"every gateway has had this replica ejected for 10\.5 s"):
        await rig.health.check()


async def test_one_gateway_that_still_sends_it_work_is_enough(clock: FakeClock, rig: Rig) -> None:
    rig.reports.heard("g1", Report(0.0, 30.0), now=clock.now)
    rig.reports.heard("g2", Report(0.0, 10.0), now=clock.now)
    await rig.health.check()


async def test_a_check_that_waits_for_a_model_that_rests_is_a_failure(clock: FakeClock, rig: Rig) -> None:
    rig.golden.takes_s, rig.busy = 1000.0, False
    with pytest.raises(Unhealthy, match="the model rests"):
        await rig.health.check()
    await rig.health.close()


async def test_a_check_that_waits_ends_with_the_replica(clock: FakeClock, rig: Rig) -> None:
    rig.golden.takes_s = 1000.0
    await rig.health.check()
    await rig.health.close()


async def test_a_replica_that_holds_too_much_memory_is_replaced_and_says_why(rig: Rig) -> None:
    rig.mb = 512.0
    await rig.health.check()
    rig.mb = 512.6
    with pytest.raises(Unhealthy, match=r"it holds 513 MB, more than its 512 of max_memory_mb"):
        await rig.health.check()


def test_siblings_that_leak_alike_reach_their_limits_one_after_the_other() -> None:
    limits = sorted(memory_limit_mb(1000, f"replica-{number}") for number in range(200))
    assert 800 <= limits[0] < 820
    assert 980 < limits[-1] <= 1000
    assert len({round(limit) for limit in limits}) > 100


async def test_without_a_limit_nobody_looks_how_much_memory_it_holds(clock: FakeClock, rig: Rig) -> None:
    def never() -> float:
        raise AssertionError("nobody asked for it")

    health = ReplicaHealth(
        rig.golden, rig.reports, busy=lambda: True, replace_after_s=10.0, clock=clock, memory_mb=never
    )
    await health.check()


def test_what_a_process_holds_grows_by_what_it_keeps() -> None:
    before = own_memory_mb()
    kept = b"\1" * (64 << 20)
    assert own_memory_mb() - before > 50
    assert len(kept) == 64 << 20
