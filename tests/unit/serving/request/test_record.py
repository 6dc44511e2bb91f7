from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.request.pipeline import NO_VERSION, Origin
from serving.request.record import RequestRecorder


@given(st.lists(st.floats(0, 5)))
def test_every_duration_is_in_the_bucket_of_the_least_bound_that_holds_it(durations: list[float]) -> None:
    bounds = (0.5, 1.0, 2.0)
    recorder = RequestRecorder(bounds)
    for seconds in durations:
        recorder.record(NO_VERSION, "ok", seconds=seconds)
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
    recorder.record(("m", "v1"), "ok", seconds=0)
    recorder.record(("m", "v2"), "ok", seconds=0)
    recorder.record(("m", "v2"), "model_failed", seconds=0)
    recorder.record(NO_VERSION, "model_not_found", seconds=0)
    assert {key: dict(tally.outcomes) for key, tally in recorder.collect().items()} == {
        ("m", "v1"): {"ok": 1},
        ("m", "v2"): {"ok": 1, "model_failed": 1},
        NO_VERSION: {"model_not_found": 1},
    }


def test_what_was_collected_is_not_collected_again() -> None:
    recorder = RequestRecorder((1.0,))
    recorder.record(NO_VERSION, "ok", seconds=0)
    assert len(recorder.collect()) == 1
    assert recorder.collect() == {}


def test_what_answered_in_the_versions_place_is_counted_by_what_and_why() -> None:
    recorder = RequestRecorder((1.0,))
    recorder.record(("m", "v1"), "degraded", seconds=0, origin=Origin("static", "circuit_open"))
    recorder.record(("m", "v1"), "degraded", seconds=0, origin=Origin("static", "circuit_open"))
    recorder.record(("m", "v1"), "ok", seconds=0, origin=Origin("cache", None, 1.0, "node"))
    assert recorder.collect()["m", "v1"].origins == {("static", "circuit_open"): 2, ("cache", ""): 1}
