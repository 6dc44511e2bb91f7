from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.bench.lineup import SYSTEMS
from loadtests.bench.plan import START_AND_STOP_S, WARM_UP_S, Plan, Progress
from loadtests.bench.systems import Place
from loadtests.bench.workloads import IMAGE_1, MLP, Payload


def plan(directory: Path, *names: str, payloads: tuple[Payload, ...] = (MLP, IMAGE_1), repeat: int = 2) -> Plan:
    chosen = tuple(system for system in SYSTEMS if system.name in names)
    return Plan(Place(directory, 18000), chosen, repeat=repeat, seconds=5, payloads=payloads)


def names(measured: Plan, number: int) -> list[list[str]]:
    return [[system.name for system in sharing] for sharing in measured.in_round(number)]


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_plan_knows_whom_it_measures_with_what(tmp_path: Path) -> None:
    measured = plan(tmp_path, "mlserver", "mlserver_single")
    batching, single = measured.systems

    assert [payload.name for payload in measured.measured_with(batching)] == ["mlp", "image-1"]
    assert [payload.name for payload in measured.measured_with(single)] == ["mlp"]


def test_every_second_round_goes_the_other_way_and_leaves_out_whom_it_can_not_measure(tmp_path: Path) -> None:
    measured = plan(tmp_path, "mlserver", "mlserver_single", "triton", payloads=(IMAGE_1,))

    assert [names(measured, number) for number in (1, 2, 3)] == [
        [["mlserver"], ["triton"]],
        [["triton"], ["mlserver"]],
        [["mlserver"], ["triton"]],
    ]


def test_systems_that_are_one_server_share_a_start(tmp_path: Path) -> None:
    measured = plan(tmp_path, "litserve", "litserve_single", "triton", "holdfast", "holdfast_direct")

    assert names(measured, 1) == [["litserve"], ["litserve_single"], ["triton"], ["holdfast", "holdfast_direct"]]
    assert names(measured, 2) == [["holdfast_direct", "holdfast"], ["triton"], ["litserve_single"], ["litserve"]]


def test_a_run_takes_its_starts_its_warm_ups_and_its_figures(tmp_path: Path) -> None:
    tiny, image = replace(MLP, connections=(1, 32, 128)), replace(IMAGE_1, connections=(1, 8))
    measured = plan(tmp_path, "holdfast", "holdfast_direct", payloads=(tiny, image))

    of_one = 2 * WARM_UP_S + 5 * (3 + 2)
    assert measured.expected_s == 2 * (START_AND_STOP_S + 2 * of_one)


def test_what_is_left_is_corrected_by_how_long_the_rest_took() -> None:
    clock = HandClock()
    progress = Progress(600, clock)
    assert progress.minutes_left == pytest.approx(10)

    clock.now_s += 240  # twice as long as thought
    progress.done(120)

    assert progress.minutes_left == pytest.approx(16)


def test_nothing_is_left_at_the_end() -> None:
    clock = HandClock()
    progress = Progress(60, clock)
    clock.now_s += 30
    progress.done(60)

    assert progress.minutes_left == 0
