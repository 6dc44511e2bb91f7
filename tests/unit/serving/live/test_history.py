"""All gateways' seconds as one: sums are sums, whoever tells them and in whatever pieces."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.live.history import PATIENCE_S, RECENT_S, History, Rates, kind_of, quantile
from serving.live.series import KEPT_S, Second, SeriesPage
from serving.request.failures import FAILURES

BOUNDS = (0.001, 0.01, 0.1)
T = 5000


class Merging(History):
    """Merges all that it hears."""

    def hear(self, pages: Iterable[SeriesPage], *, now: float) -> None:
        super().hear(pages, now=now)
        assert not self.merge()


def second(
    t: int, ok: float = 0.0, *, weight: float = 0.0, buckets: list[float] | None = None, **more: float
) -> Second:
    return Second(t, {"ok": ok, **more}, {}, buckets or [0.0, ok, 0.0, 0.0], weight)


def page(gateway: str, *seconds: Second, until: int, since: int = T, model: str = "m") -> SeriesPage:
    return SeriesPage(gateway=gateway, since=since, until=until, models={model: list(seconds)} if seconds else {})


def test_two_gateways_add_up_and_a_second_without_requests_is_a_zero() -> None:
    history = Merging(BOUNDS)
    a = page("a", second(T, 3), second(T + 2, 1), until=T + 3)
    b = page("b", second(T, 4, model_failed=2, overloaded=1, cancelled=5), until=T + 3)
    history.hear([a, b], now=T + 3.1)
    told = history.series("m")
    assert told.t == [T, T + 1, T + 2]
    assert (told.ok, told.errors, told.shed) == ([7, 0, 1], [2, 0, 0], [1, 0, 0])
    assert told.p50_ms[1] is None
    assert told.p50_ms[0] == pytest.approx(5.5)


def test_nothing_is_told_before_every_gateway_has_told_of_it() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", second(T, 1), until=T + 3), page("b", second(T, 1), until=T + 1)], now=T + 3.0)
    assert history.series("m").t == [T]
    history.hear([page("a", until=T + 4), page("b", second(T + 1, 9), until=T + 4)], now=T + 4.0)
    assert (history.series("m").t, history.series("m").ok) == ([T, T + 1, T + 2, T + 3], [2, 9, 0, 0])


def test_one_that_falls_silent_is_not_waited_for_long_and_what_it_told_stays() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", second(T, 1), until=T + 1), page("b", second(T, 5), until=T + 1)], now=T + 1.0)
    history.hear([page("a", second(T + 1, 1), until=T + 2)], now=T + 2.0)
    assert history.last == T
    late = T + 1 + int(PATIENCE_S) + 1
    history.hear([page("a", second(late - 1, 1), until=late)], now=float(late))
    assert history.last == late - 1
    assert history.series("m").ok[:2] == [6, 1]


def test_a_new_gateway_takes_nothing_from_the_past() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", *(second(T + at, 2) for at in range(10)), until=T + 10)], now=T + 10.0)
    history.hear([page("a", second(T + 10, 2), until=T + 11), page("new", since=T + 11, until=T + 11)], now=T + 11.0)
    assert history.series("m").ok == [2] * 11


def test_whoever_has_the_rest_gets_only_what_is_new() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", *(second(T + at, at) for at in range(10)), until=T + 10)], now=T + 10.0)
    assert history.series("m", after=T + 7).ok == [8, 9]
    assert history.series("m", after=history.last).t == []
    assert (history.after("a"), history.after("b")) == (T + 9, 0)


def test_a_model_that_was_never_asked_has_a_series_of_zeros() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", second(T, 1), until=T + 5)], now=T + 5.0)
    told = history.series("quiet")
    assert (told.ok, told.p99_ms) == ([0.0] * 5, [None] * 5)
    assert history.recent("quiet").rates == Rates()


def test_the_weight_is_the_one_that_requests_met_on_average() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", second(T, 1, weight=0.5), until=T + 1), page("b", second(T, 1), until=T + 1)], now=T + 1.0)
    assert history.series("m").weight == [0.25]


def test_the_last_ten_seconds_are_told_per_second_with_their_reasons() -> None:
    history = Merging(BOUNDS)
    told = [
        Second(T + at, {"ok": 4, "degraded": 2, "no_answer": 1}, {"model_failed": 2}, [0, 0, 7, 0], 0)
        for at in range(30)
    ]
    history.hear([page("a", *told, until=T + 30)], now=T + 30.0)
    recent = history.recent("m")
    assert recent.rates == Rates(ok=4, errors=1, degraded=2)
    assert (recent.degraded_by_reason, recent.errors_by_reason) == ({"model_failed": 2}, {"no_answer": 1})
    assert recent.p50_ms == pytest.approx(55)


def test_what_began_less_than_ten_seconds_ago_is_not_watered_down() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", *(second(T + at, 8) for at in range(3)), until=T + 3)], now=T + 3.0)
    assert history.recent("m").rates.ok == 8


def test_it_holds_five_minutes_and_no_more() -> None:
    history = Merging(BOUNDS)
    for at in range(KEPT_S + 50):
        history.hear([page("a", second(T + at, 1), until=T + at + 1)], now=T + at + 1.0)
    told = history.series("m")
    assert (len(told.t), told.t[-1], sum(told.ok)) == (KEPT_S, T + KEPT_S + 49, KEPT_S)
    assert history._tracks["a"].seconds == {}
    for at in range(KEPT_S + 50, 2 * KEPT_S + 60):
        history.hear([page("b", since=T + at, until=T + at + 1)], now=T + at + 1.0)
    assert (list(history._tracks), history._points) == (["b"], {})


def test_every_way_to_end_means_something_to_the_caller() -> None:
    assert {kind_of(name) for name in ("ok", "degraded")} == {"ok", "degraded"}
    assert (kind_of("overloaded"), kind_of("cancelled"), kind_of("invalid_request")) == ("shed", "other", "other")
    errors = {error.code for error in FAILURES if kind_of(error.code) == "errors"}
    assert errors >= {"internal", "no_answer", "deadline_exceeded", "model_failed", "circuit_open", "queue_timeout"}


@st.composite
def gateways(draw: st.DrawFn) -> list[list[int]]:
    """For each gateway what it counted in each of some seconds."""
    seconds = draw(st.integers(1, 20))
    return draw(st.lists(st.lists(st.integers(0, 50), min_size=seconds, max_size=seconds), min_size=1, max_size=4))


@given(gateways(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_however_it_is_told_the_sum_is_the_same(counted: list[list[int]], chance: object, at_once: int) -> None:
    """All at the end; or page by page, in any order, some pages twice."""
    seconds = len(counted[0])
    whole = Merging(BOUNDS)
    whole.hear(
        [
            page(f"g{n}", *(second(T + t, ok) for t, ok in enumerate(each)), until=T + seconds)
            for n, each in enumerate(counted)
        ],
        now=float(T + seconds),
    )
    pieces = Merging(BOUNDS)
    for until in [*range(at_once, seconds, at_once), seconds, seconds]:
        told = []
        for number, each in enumerate(counted):
            first = max(pieces.after(f"g{number}") + 1 - T, 0)
            news = [second(T + t, each[t]) for t in range(first, until)]
            told.append(page(f"g{number}", *news, until=T + until))
        chance.shuffle(told)  # type: ignore[attr-defined]
        pieces.hear(told, now=float(T + until))
    assert pieces.series("m") == whole.series("m")
    assert whole.series("m").ok == [sum(column) for column in zip(*counted, strict=True)]


@given(st.lists(st.floats(0.0001, 0.0999), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations: list[float], q: float) -> None:
    buckets = np.histogram(durations, bins=[0.0, *BOUNDS])[0].astype(float).tolist()
    estimate = quantile([*buckets, 0.0], BOUNDS, q)
    true = float(np.quantile(durations, q, method="inverted_cdf"))
    assert estimate is not None
    lower = max([0.0, *(bound for bound in BOUNDS if bound <= true)])
    upper = min(bound for bound in BOUNDS if bound > true)
    assert lower - 1e-9 <= estimate <= upper + 1e-9


def test_what_took_longer_than_all_bounds_is_told_as_the_last_of_them() -> None:
    assert quantile([0, 0, 0, 5], BOUNDS, 0.5) == BOUNDS[-1]
    assert quantile([0, 0, 0, 0], BOUNDS, 0.5) is None
    assert RECENT_S == 10


def test_what_is_much_is_merged_bit_by_bit() -> None:
    history = History(BOUNDS)
    history.hear([page("a", *(second(T + at, at) for at in range(10)), until=T + 10)], now=T + 10.0)
    assert history.series("m").t == []
    assert [history.merge(most=4) for _ in range(3)] == [True, True, False]
    assert history.series("m").ok == list(range(10))


def test_a_clock_that_is_set_back_begins_anew() -> None:
    history = Merging(BOUNDS)
    history.hear([page("a", second(T + 999, 1), since=T + 900, until=T + 1000)], now=T + 1000.0)
    history.hear([page("a", second(T, 2), until=T + 2)], now=T + 2.0)
    assert (history.series("m").t, history.series("m").ok) == ([T, T + 1], [2, 0])
