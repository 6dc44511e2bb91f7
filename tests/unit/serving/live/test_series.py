"""One gateway's seconds: nothing counted is lost or counted twice, however collections fall."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.live.series import KEPT_S, MODELS_MAX, Recording, SeriesPage
from serving.request.record import Tally

NOW = 5000.0


def tally(ok: int = 0, *, slow: int = 0, **outcomes: int) -> Tally:
    """Of two buckets: what is ok is quick."""
    counts = Counter({"ok": ok, **outcomes})
    return Tally([ok, slow + sum(outcomes.values())], +counts)


def recording() -> Recording:
    return Recording("g1", buckets=2, now=NOW)


def add(here: Recording, now: float, *, weights: dict[str, float] | None = None, **models: Tally) -> None:
    here.add({(name, "v1"): told for name, told in models.items()}, weights=weights or {}, now=now)


def test_what_is_counted_within_a_second_is_that_seconds() -> None:
    here = recording()
    add(here, NOW + 1.0)
    add(here, NOW + 1.5, m=tally(3))
    add(here, NOW + 2.0, m=tally(4, model_failed=1))
    [second] = here.page().models["m"]
    assert (second.t, second.outcomes, second.buckets) == (5001, {"ok": 7, "model_failed": 1}, [7, 1])


def test_a_second_is_told_when_it_is_over() -> None:
    here = recording()
    add(here, NOW + 1.9, m=tally(19))
    page = here.page()
    assert (page.since, page.until) == (5001, 5001)
    add(here, NOW + 2.0, m=tally(1))
    assert [second.t for second in here.page().models["m"]] == [5001]


def test_what_spans_seconds_is_shared_out_by_time() -> None:
    here = recording()
    add(here, NOW + 1.0)
    add(here, NOW + 3.5, m=tally(10))
    add(here, NOW + 4.0)
    assert [second.outcomes["ok"] for second in here.page().models["m"]] == [4, 4, 2]


def test_the_versions_of_a_model_are_one_series_and_what_is_no_model_is_none() -> None:
    here = recording()
    add(here, NOW + 1.0)
    here.add({("m", "v1"): tally(1), ("m", "v2"): tally(2), ("", ""): tally(4)}, weights={}, now=NOW + 2.0)
    assert {model: [second.outcomes for second in told] for model, told in here.page().models.items()} == {
        "m": [{"ok": 3}]
    }


def test_degraded_answers_are_told_by_their_reason_and_fresh_ones_are_not_degraded() -> None:
    here = recording()
    told = tally(degraded=3)
    told.origins.update({("version", "model_failed"): 2, ("cache", "model_failed"): 1, ("cache", ""): 5})
    add(here, NOW + 1.0)
    add(here, NOW + 2.0, m=told)
    assert here.page().models["m"][-1].reasons == {"model_failed": 3}


def test_a_canarys_weight_is_there_also_when_nobody_asks() -> None:
    here = recording()
    add(here, NOW + 1.5, weights={"m": 0.05})
    add(here, NOW + 2.5, weights={"m": 0.25})
    add(here, NOW + 4.0)
    assert [(second.t, second.weight) for second in here.page().models["m"]] == [(5001, 0.25), (5002, 0.25)]


def test_only_what_is_new_is_told_to_who_has_the_rest() -> None:
    here = recording()
    for at in range(1, 11):
        add(here, NOW + at, m=tally(1))
    assert [second.t for second in here.page(5007).models["m"]] == [5008, 5009]
    assert here.page(5009).models == {}
    assert here.page(5009).until == 5010


def test_old_seconds_are_forgotten_and_models_that_nobody_asks() -> None:
    here = recording()
    add(here, NOW + 1.0, m=tally(1), n=tally(1))
    for at in range(2, KEPT_S + 100):
        add(here, NOW + at, m=tally(1))
    page = here.page()
    assert (page.until - page.since, len(page.models["m"])) == (KEPT_S, KEPT_S)
    assert "n" not in here._models


def test_of_more_models_than_can_be_kept_the_rest_has_no_series() -> None:
    here = recording()
    here.add({(f"m{number}", "v1"): tally(1) for number in range(MODELS_MAX + 5)}, weights={}, now=NOW + 1.0)
    assert len(here._models) == MODELS_MAX


@pytest.mark.parametrize("jump", [-3600.0, -0.5, 3600.0])
def test_a_clock_that_jumps_loses_no_count_of_now(jump: float) -> None:
    here = recording()
    add(here, NOW + 10.0, m=tally(1))
    add(here, NOW + 10.0 + jump, m=tally(5))
    add(here, NOW + 12.0 + jump)
    told = here.page().models["m"]
    assert sum(second.outcomes.get("ok", 0.0) for second in told) >= 5
    assert min(second.t for second in told) >= NOW + jump - KEPT_S
    assert [second.t for second in told] == sorted({second.t for second in told})


def test_it_can_be_read_back_by_another_gateway() -> None:
    here = recording()
    add(here, NOW + 1.0, m=tally(1))
    add(here, NOW + 2.0, m=tally(1))
    page = here.page()
    assert msgspec.json.decode(msgspec.json.encode(page), type=SeriesPage) == page


@given(st.lists(st.tuples(st.floats(0.05, 3.0), st.integers(0, 1000)), min_size=1, max_size=60))
def test_every_request_is_in_some_second_exactly_once(collections: list[tuple[float, int]]) -> None:
    here, now, counted = recording(), NOW, 0
    for after_s, count in collections:
        now += after_s
        counted += count
        add(here, now, m=tally(count))
    add(here, now + 1.0)
    seconds = here._models["m"].over if counted else ()
    assert sum(second.outcomes.get("ok", 0.0) for second in seconds) == pytest.approx(counted, abs=0.1)
    assert sum(sum(second.buckets) for second in seconds) == pytest.approx(counted, abs=0.1)
