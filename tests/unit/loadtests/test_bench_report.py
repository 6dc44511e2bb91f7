import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest

from loadtests.bench import plot, report
from loadtests.bench.results import Failure, Results, Sample

SVG = "{http://www.w3.org/2000/svg}"


def sample(system: str, payload: str, connections: int, per_second: float, *, number: int = 1) -> Sample:
    figures = {"p50_ms": 0.5, "p99_ms": 2.0, "cpu_s": 0.25, "rss_mb": 120.0, "pss_mb": 80.0}
    return Sample(number, system, payload, connections, requests=500, per_second=per_second, failed=0, **figures)


def results(*samples: Sample) -> Results:
    machine = {"cpu": "Abacus 9", "cores": 2, "memory_gb": 8, "kernel": "6", "python": "3.11", "load_before": 0.1}
    choice = {"what": "no delay", "source": "https://example.org/batcher"}
    settings = {
        "repeat": 1,
        "seconds": 6,
        "connections": {"mlp": [1, 32], "image-8": [1, 4]},
        "systems": {"triton": {"settings": "dynamic batching", "choices": [choice, {"what": "CPU", "source": ""}]}},
    }
    return Results("2030-01-01", machine, {"triton": {"numpy": "1.26.4"}}, settings, list(samples))


MEASURED = results(
    sample("triton", "mlp", 1, 3000.0),
    sample("triton", "mlp", 32, 10_000.0),
    sample("holdfast", "mlp", 1, 4500.0),
    sample("holdfast", "mlp", 32, 20_000.0),
    sample("in-process", "image-8", 1, 40.0),
    sample("holdfast", "image-8", 1, 30.0),
    sample("holdfast", "image-8", 4, 32.0),
)


def pictures(measured: Results) -> list[str]:
    return [plot.render(section) for section in report.sections(measured)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.10234, "0.102"),
        (0.9996, "1.00"),
        (9.87, "9.87"),
        (31.83, "31.8"),
        (457.4, "457"),
        (999.7, "1\u202f000"),
        (17_112, "17\u202f100"),
        (1_234_567, "1\u202f230\u202f000"),
    ],
)
def test_a_number_shows_three_figures(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_a_table_has_a_rule_and_as_many_cells_in_every_row() -> None:
    assert report.table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def test_every_table_of_the_page_is_rectangular() -> None:
    lines = report.render(MEASURED).splitlines()
    neighbours = [(a, b) for a, b in pairwise(lines) if a.startswith("|") and b.startswith("|")]

    assert neighbours
    assert all(a.count("|") == b.count("|") for a, b in neighbours)


def test_the_page_names_machine_and_versions_and_says_what_counts() -> None:
    page = report.render(MEASURED)

    assert "Abacus 9, 2 cores" in page
    assert "triton: numpy 1.26.4" in page
    assert "absolute figures drift" in page
    assert "What this can't show" in page


def test_the_page_shows_figures_and_ratios() -> None:
    page = report.render(MEASURED)

    assert "| triton | 3\u202f000 | 0.500 | 2.00 | 10\u202f000 | 0.500 | 2.00 | 0 |" in page
    same = "1.00 (1.00-1.00)"
    assert f"| triton | {same} | {same} | 1.50 (1.50-1.50) | 2.00 (2.00-2.00) | {same} | {same} |" in page


def test_the_page_shows_cpu_for_a_request_and_memory_both_ways() -> None:
    assert "| triton | 0.500 | 0.500 | 80.0 | 120 |" in report.render(MEASURED)


def test_every_payload_has_a_section_with_a_picture_of_its_own() -> None:
    page = report.render(MEASURED)

    assert page.index("## Tiny JSON") < page.index("benchmarks-mlp.svg") < page.index("## Eight images")
    assert "benchmarks-image-8.svg" in page
    assert "## 100" not in page  # not measured


def test_images_are_compared_with_the_model_alone() -> None:
    page = report.render(MEASURED)

    assert "| holdfast | 30.0 | 0.500 | 2.00 | 32.0 | 0.500 | 2.00 | 0.800 (0.800-0.800) | 0 |" in page
    assert "| in-process | 40.0 | 0.500 | 2.00 | - | - | - | 1.00 (1.00-1.00) | 0 |" in page


def test_every_choice_in_a_setup_is_on_the_page_with_its_source() -> None:
    page = report.render(MEASURED)

    assert "- `triton`: dynamic batching\n  - no delay ([source](https://example.org/batcher))\n  - CPU\n" in page


def test_what_could_not_be_measured_is_on_the_page() -> None:
    broken = results(sample("triton", "mlp", 1, 3000.0))
    broken.failures.append(Failure(2, "bento", "not ready after 90 s"))

    page = report.render(broken)

    assert "round 2, bento: not ready after 90 s" in page
    assert "### Ratios" not in page  # Holdfast is not there to be compared


def test_a_picture_is_xml_with_a_dot_for_every_figure_inside_its_frame() -> None:
    picture = ET.fromstring(pictures(MEASURED)[0])  # noqa: S314  written by the code under test
    dots = [group.find(f"{SVG}circle") for group in picture.iter(f"{SVG}g")]
    _, _, width, height = map(float, picture.attrib["viewBox"].split())

    # Of two systems: req/s and CPU at two c each, p50 and p99 of a lone caller, memory.
    assert len(dots) == 2 * (2 + 2 + 2 + 1)
    assert all(dot is not None for dot in dots)
    assert all(0 < float(d.attrib["cx"]) < width and 0 < float(d.attrib["cy"]) < height for d in dots if d is not None)


def test_a_dot_is_the_median_and_its_line_goes_from_the_lowest_round_to_the_highest() -> None:
    rounds = [sample("triton", "mlp", 1, rate, number=n) for n, rate in enumerate((100.0, 400.0, 150.0), start=1)]
    picture = ET.fromstring(pictures(results(*rounds))[0])  # noqa: S314  written by the code under test

    first = next(picture.iter(f"{SVG}g"))
    texts = [child.text for child in first if child.text]
    line, dot = first.find(f"{SVG}line"), first.find(f"{SVG}circle")

    assert texts == ["triton c=1: 150 (100 to 400)"]
    assert line is not None
    assert dot is not None
    assert float(line.attrib["x1"]) < float(dot.attrib["cx"]) < float(line.attrib["x2"])


def test_no_dot_hides_another_of_its_row() -> None:
    picture = ET.fromstring(pictures(MEASURED)[0])  # noqa: S314  written by the code under test
    places = [
        (dot.attrib["cx"], dot.attrib["cy"]) for group in picture.iter(f"{SVG}g") for dot in group.iter(f"{SVG}circle")
    ]

    assert len(set(places)) == len(places)


def test_a_picture_has_colours_for_the_dark() -> None:
    assert "prefers-color-scheme: dark" in pictures(MEASURED)[0]


def test_a_faster_system_stands_further_right() -> None:
    scale = plot.log_scale([30.0, 20_000.0], left=100, right=400)

    assert scale(20) == pytest.approx(100)
    assert scale(20_000) == pytest.approx(400)
    assert scale(100) < scale(1000)


def test_marks_are_decades_or_finer_where_there_is_room() -> None:
    wide = plot.log_scale([30.0, 20_000.0], left=100, right=400)
    narrow = plot.log_scale([22.0, 45.0], left=100, right=400)

    assert wide.ticks() == [100, 1000, 10_000]
    assert narrow.ticks() == [20, 50]


def test_equal_values_still_make_a_scale() -> None:
    scale = plot.log_scale([100.0], left=0, right=1)

    assert scale(100) == 0
    assert len(scale.ticks()) >= 2


def test_nothing_measured_is_a_page_all_the_same() -> None:
    assert "Benchmarks" in report.render(results())
    assert pictures(results()) == []


def test_a_system_that_answered_nothing_has_no_dots() -> None:
    silent = replace(sample("bento", "mlp", 1, 0.0), requests=0, p50_ms=0.0, p99_ms=0.0, pss_mb=None)

    assert "bento c=" not in pictures(results(silent))[0]
