import math
import random

import pytest

from loadtests.report import about, figures, labels, scales, texts
from loadtests.report.bins import BINS_MAX, at, binned, quantile, step, stretches, thinned, worst
from loadtests.report.figures import AFTER, BETWEEN, CALM, DURING, ECHO_S
from loadtests.report.record import Fault, Record, Sample, Series, Verdict

KILL = Fault(10.0, None, "kill_replica", "digits@v1")
SLOW = Fault(30.0, 40.0, "slow", "digits@v1")


def sample(due: float, outcome: str = "ok", *, ms: float = 10.0) -> Sample:
    return Sample(due, due + ms / 1000, outcome, "digits", "v1")


def series(*values: float, step_s: float = 1.0) -> Series:
    return Series("x", "x", "", [number * step_s for number in range(len(values))], values)


def record(*verdicts: Verdict, held: bool = True, **versions: str) -> Record:
    scenario = {"name": "primary slow"}
    return Record("/runs/a", scenario, "7", "", 60.0, {}, dict(versions), verdicts, held)


@pytest.mark.parametrize(("wanted", "value"), [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_quantile_is_a_value_that_was_measured(wanted: float, value: float) -> None:
    assert quantile(list(range(1, 101)), wanted) == value


def test_a_quantile_of_nothing_is_unknown() -> None:
    assert math.isnan(quantile([], 0.5))


@pytest.mark.parametrize(
    ("due", "ms", "phase"),
    [
        (9.0, 10, CALM),
        (9.9, 200, DURING),
        (10.0, 10, DURING),
        (10.0 + ECHO_S, 10, DURING),
        (10.1 + ECHO_S, 10, BETWEEN),
        (29.0, 2000, DURING),
        (40.1, 10, AFTER),
    ],
)
def test_a_request_is_during_a_fault_if_it_was_open_at_any_time_of_it(due: float, ms: float, phase: str) -> None:
    found = figures.figures([sample(due, ms=ms)], [SLOW, KILL])

    assert list(found.phases) == [phase]


def test_without_faults_all_is_calm() -> None:
    assert list(figures.figures([sample(1.0), sample(500.0)], []).phases) == [CALM]


def test_faults_that_overlap_count_as_one_time() -> None:
    assert figures.windows([SLOW, Fault(38.0, None, "kill"), KILL]) == [(10.0, 15.0), (30.0, 43.0)]


def test_quick_refusals_and_cancelled_requests_dont_flatter_the_latency() -> None:
    samples = [sample(1.0, ms=100), *(sample(2.0, kind, ms=1) for kind in ("shed", "cancelled", "error"))]

    found = figures.figures(samples, [])

    assert found.phases[CALM].p50 == pytest.approx(100)
    assert found.refusals[CALM].p50 == pytest.approx(1)
    assert found.requests == 4


def test_trouble_counts_for_the_last_fault_that_had_begun() -> None:
    samples = [
        sample(5.0, "error"),
        sample(10.5, "degraded"),
        sample(12.0, "error"),
        sample(35.0, "wrong"),
        sample(39.0),
    ]

    kill, slow = figures.effects(samples, [KILL, SLOW])

    assert dict(kill.counts) == {"degraded": 1, "error": 1}
    assert kill.trouble_s == pytest.approx(2.0)
    assert dict(slow.counts) == {"wrong": 1}
    assert slow.trouble_s == pytest.approx(5.0)


def test_a_fault_that_nobody_felt_had_no_trouble() -> None:
    assert figures.effects([sample(12.0), sample(12.0, "cancelled")], [KILL])[0].trouble_s is None


def test_a_request_counts_in_the_second_in_which_it_was_due() -> None:
    bins = binned([sample(3.9, ms=5000), sample(3.0, "degraded"), sample(4.0, "error")], 20.0)

    assert bins.step_s == 1
    assert (bins.rate(3, "ok"), bins.rate(3, "degraded"), bins.rate(4, "error")) == (1, 1, 1)
    assert bins.bins[3].degraded_share == 0.5
    assert bins.quantiles(0.99)[3] == pytest.approx(5000)
    assert math.isnan(bins.quantiles(0.99)[4])


def test_a_last_second_that_was_cut_short_shows_no_dip() -> None:
    samples = [sample(number / 100) for number in range(2050)]

    bins = binned(samples, 20.5)

    assert bins.rate(20, "ok") == pytest.approx(bins.rate(19, "ok"))


@pytest.mark.parametrize("seconds", [0.1, 1.0, 9.0, 60.0, 401.0, 1800.0, 86_400.0, 5e6])
def test_there_are_some_bins_in_any_run_but_never_too_many(seconds: float) -> None:
    bins = binned([sample(seconds)], seconds)

    assert 1 <= len(bins.bins) <= BINS_MAX
    assert sum(each.total for each in bins.bins) == 1


def test_bins_are_seconds_unless_the_run_is_very_short_or_long() -> None:
    assert [step(seconds) for seconds in (1, 60, 300, 1800)] == [0.1, 1, 1, 5]


def test_a_thinned_series_keeps_its_lowest_and_its_highest_value() -> None:
    chance = random.Random(3)
    values = [chance.uniform(10, 20) for _ in range(5000)]
    values[1234], values[4321] = 3.0, 99.0

    points = thinned(series(*values), at_most=400)

    assert len(points) <= 402
    assert {3.0, 99.0} <= {value for _, value in points}
    assert points == sorted(points)


def test_a_thinned_series_keeps_its_gaps() -> None:
    points = thinned(series(*[1.0] * 100, *[math.nan] * 100, *[1.0] * 100), at_most=30)

    assert any(math.isnan(value) for _, value in points)


def test_a_value_holds_until_the_next_one_was_seen() -> None:
    seen = series(0, 2, 0)

    assert (at(seen, 0.9), at(seen, 1.0), math.isnan(at(seen, -1))) == (0, 2, True)
    assert (worst(seen, 0.2, 0.9), worst(seen, 0.2, 1.5), worst(seen, 2.0, 3.0)) == (0, 2, 0)


def test_a_state_is_one_stretch_while_it_lasts_and_none_while_it_is_unknown() -> None:
    assert stretches(series(0, 0, 2, math.nan, 0), 60.0) == [(0, 2, 0), (2, 3, 2), (4, 5, 0)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "-"), (0.123, "0.12 ms"), (9.87, "9.9 ms"), (18.1, "18.1 ms"), (211.4, "211 ms"), (1234.0, "1.23 s")],
)
def test_a_latency_has_the_unit_in_which_it_is_short(value: float, text: str) -> None:
    assert texts.milliseconds(value) == text


def test_what_is_not_nothing_isnt_shown_as_nothing() -> None:
    assert texts.share(1, 1_000_000) == "<0.01 %"
    assert texts.share(999_999, 1_000_000) == ">99.99 %"
    assert texts.share(0, 10) == "0 %"
    assert texts.share(0, 0) == "-"


def test_a_log_scale_spans_whole_decades_and_survives_nothing_at_all() -> None:
    scale = scales.whole_decades([3.0, 450.0, math.nan], start=100.0, end=0.0)

    assert scale.decades() == [1, 10, 100, 1000]
    assert (scale(1), scale(1000), scale(0)) == (100, 0, 100)
    assert scales.whole_decades([], start=1, end=0).decades() == [1, 10, 100]


@pytest.mark.parametrize("until", [0.1, 1, 7, 60, 179, 1800, 90_000, 1e7])
def test_time_has_few_ticks_and_begins_at_nought(until: float) -> None:
    found = scales.time_ticks(until, at_most=12)

    assert found[0] == 0
    assert len(found) <= 13
    assert found[-1] <= until


def test_labels_in_one_lane_never_touch() -> None:
    chance = random.Random(5)
    spans = [(start, start + chance.uniform(10, 200)) for start in (chance.uniform(0, 900) for _ in range(80))]

    chosen = labels.lanes(spans, gap=8)

    for one, (start, end) in enumerate(spans):
        for other in range(one):
            if chosen[one] == chosen[other]:
                assert end + 8 <= spans[other][0] or spans[other][1] + 8 <= start


def test_labels_that_want_the_same_place_are_spread_within_the_panel() -> None:
    assert labels.spread([50, 50, 50], low=0, high=100, gap=15) == [50, 65, 80]
    assert labels.spread([100, 99], low=0, high=100, gap=15) == [100, 85]
    assert labels.spread([5] * 11, low=0, high=100, gap=15) == [10.0 * number for number in range(11)]
    assert labels.spread([], low=0, high=1, gap=1) == []


def test_a_label_that_is_too_long_is_cut_where_one_sees_it() -> None:
    cut = labels.shorten("redis on a node with a long name", 100, 12)

    assert cut.endswith("\u2026")
    assert labels.width(cut, 12) <= 100
    assert labels.shorten("short", 100, 12) == "short"


def test_marks_that_are_close_share_a_label() -> None:
    assert labels.clusters([0, 5, 9, 50, 51], gap=10) == [[0, 1, 2], [3, 4]]


def test_the_command_can_be_typed_whatever_the_scenario_is_called() -> None:
    assert about.commands(record(commit="16cf042")) == [
        "git checkout 16cf042",
        "python -m loadtests.chaos run 'primary slow' --seed 7",
    ]


def test_without_a_commit_none_is_checked_out() -> None:
    assert about.commands(record(commit="unknown; reboot")) == ["python -m loadtests.chaos run 'primary slow' --seed 7"]


def test_a_run_without_promises_has_not_held() -> None:
    kept, broken = Verdict("a", True, "0"), Verdict("b", False, "1")

    assert about.verdict(record()) == about.NO_VERDICT
    assert about.verdict(record(kept)) == about.HELD
    assert about.verdict(record(kept, broken, held=False)) == about.NOT_HELD
    assert about.promises(record(kept, broken, held=False)) == "1 of 2 promises held"
