from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.protocol.decode import RequestDecoder
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from serving.request.pipeline import ServedVersion
from serving.request.record import NO_VERSION, RequestRecorder
from tests.fakes import DOUBLE, FakeClock


def served(version: str) -> ServedVersion:
    clock = FakeClock()
    lane = Lane("m", DOUBLE, finite=True, limits=LaneLimits(), clock=clock, deadlines=Deadlines(clock))
    return ServedVersion("m", version, f"m@{version}", RequestDecoder("m", DOUBLE), lane, 1.0)


@given(st.lists(st.floats(0, 5)))
def test_every_duration_is_in_the_bucket_of_the_least_bound_that_holds_it(durations: list[float]) -> None:
    bounds = (0.5, 1.0, 2.0)
    recorder = RequestRecorder(bounds)
    for seconds in durations:
        recorder.record(None, "ok", seconds=seconds)
    tally = recorder.collect().get(NO_VERSION)
    if tally is None:
        assert not durations
        return
    assert tally.buckets == [
        sum(low < seconds <= high for seconds in durations)
        for low, high in zip((-1.0, *bounds), (*bounds, 99.0), strict=True)
    ]
    assert tally.outcomes == {"ok": len(durations)}
    assert tally.seconds == sum(durations)


def test_versions_are_counted_apart_and_what_knew_no_version_too() -> None:
    recorder = RequestRecorder((1.0,))
    recorder.record(served("v1"), "ok", seconds=0)
    recorder.record(served("v2"), "ok", seconds=0)
    recorder.record(served("v2"), "model_failed", seconds=0)
    recorder.record(None, "model_not_found", seconds=0)
    assert {key: dict(tally.outcomes) for key, tally in recorder.collect().items()} == {
        ("m", "v1"): {"ok": 1},
        ("m", "v2"): {"ok": 1, "model_failed": 1},
        NO_VERSION: {"model_not_found": 1},
    }


def test_what_was_collected_is_not_collected_again() -> None:
    recorder = RequestRecorder((1.0,))
    recorder.record(None, "ok", seconds=0)
    assert len(recorder.collect()) == 1
    assert recorder.collect() == {}
