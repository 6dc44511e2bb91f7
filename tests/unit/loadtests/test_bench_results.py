import dataclasses
from pathlib import Path

import pytest

from loadtests.bench.errors import BenchError
from loadtests.bench.results import FILE, Failure, Key, Ratio, Results, Sample, ratio, summarise

OURS: Key = ("holdfast", "mlp", 32)
THEIRS: Key = ("triton", "mlp", 32)


def sample(key: Key, number: int, per_second: float, *, requests: int = 1000, cpu_s: float | None = None) -> Sample:
    system, workload, connections = key
    return Sample(
        round=number,
        system=system,
        workload=workload,
        connections=connections,
        requests=requests,
        per_second=per_second,
        p50_ms=1.0,
        p99_ms=2.0,
        failed=number,
        cpu_s=cpu_s,
        rss_mb=100.0 * number,
        pss_mb=60.0 * number,
    )


def test_a_summary_is_the_median_of_the_rounds_with_all_failures_and_the_highest_memory() -> None:
    summary = summarise([sample(OURS, 1, 10.0), sample(OURS, 2, 90.0), sample(OURS, 3, 20.0)])[OURS]

    assert summary.per_second == 20.0
    assert summary.failed == 6
    assert (summary.rss_mb, summary.pss_mb) == (300.0, 180.0)


def test_cpu_is_counted_for_a_thousand_requests() -> None:
    summary = summarise([sample(OURS, 1, 10.0, requests=500, cpu_s=0.25)])[OURS]

    assert summary.cpu_s_per_1000 == 0.5


def test_a_system_that_answered_nothing_has_no_cpu_figure() -> None:
    assert summarise([sample(OURS, 1, 0.0, requests=0, cpu_s=0.25)])[OURS].cpu_s_per_1000 is None


def test_loads_are_kept_apart() -> None:
    other: Key = ("holdfast", "mlp", 128)

    assert set(summarise([sample(OURS, 1, 1.0), sample(other, 1, 1.0)])) == {OURS, other}


def test_a_ratio_is_formed_within_a_round() -> None:
    # The machine is four times as fast in round 2: across rounds the medians would give 2.5 / 2.5.
    samples = [
        *(sample(OURS, 1, 2.0), sample(THEIRS, 1, 1.0)),
        *(sample(OURS, 2, 8.0), sample(THEIRS, 2, 4.0)),
        *(sample(OURS, 3, 3.0), sample(THEIRS, 3, 2.0)),
    ]

    assert ratio(samples, OURS, THEIRS, "per_second") == Ratio(middle=2.0, low=1.5, high=2.0)


def test_rounds_that_lack_one_of_the_two_are_left_out() -> None:
    samples = [sample(OURS, 1, 2.0), sample(OURS, 2, 9.0), sample(THEIRS, 2, 3.0)]

    assert ratio(samples, OURS, THEIRS, "per_second") == Ratio(3.0, 3.0, 3.0)


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio([sample(OURS, 1, 2.0)], OURS, THEIRS, "per_second") is None
    assert ratio([sample(OURS, 1, 2.0), sample(THEIRS, 1, 0.0)], OURS, THEIRS, "per_second") is None


def test_no_answer_is_no_latency_of_nothing() -> None:
    silent = dataclasses.replace(sample(OURS, 1, 0.0, requests=0), p50_ms=0.0, p99_ms=0.0)

    assert summarise([silent])[OURS].p50_ms is None
    assert summarise([silent, sample(OURS, 2, 9.0)])[OURS].p99_ms == 2.0
    assert ratio([silent, sample(THEIRS, 1, 5.0)], OURS, THEIRS, "p50_ms") is None
    assert ratio([silent, sample(THEIRS, 1, 5.0)], OURS, THEIRS, "per_second") == Ratio(0.0, 0.0, 0.0)


def test_results_survive_the_file(tmp_path: Path) -> None:
    results = Results("now", {"cores": 2}, {"triton": {"numpy": "1"}}, {"repeat": 1})
    results.samples.append(sample(OURS, 1, 2.0))
    results.failures.append(Failure(1, "bento", "not ready"))

    results.save(tmp_path)

    assert dataclasses.asdict(Results.load(tmp_path)) == dataclasses.asdict(results)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "`run` makes it"), ("{", "is not JSON"), ('{"schema": 1}', "another version")],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)

    with pytest.raises(BenchError, match=says) as caught:
        Results.load(tmp_path)

    assert "\n" not in str(caught.value)
