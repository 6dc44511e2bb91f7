"""The reading of scenarios: what is understood, and the one line that people get for what isn't."""

from __future__ import annotations

import pytest

from loadtests.chaos import library
from loadtests.chaos.durations import Seconds, decode
from loadtests.chaos.faults import NAMES, AnyFault
from loadtests.chaos.hands import HANDS
from loadtests.chaos.matrix import LINES
from loadtests.chaos.spec import ScenarioError, lasting, parse

FILE = """\
name: mine
title: Mine
what: A test.
load: {rate: 100, seconds: 20}
faults:
  - {at: 6s, fault: kill_replica}
  - {at: 7s, fault: slow, ms: 5}
must:
  errors: 0
"""


def complaint(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "x.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_scenario_is_read_with_its_defaults() -> None:
    scenario = parse(FILE, "x.yaml")
    assert scenario.faults[0].at == 6.0
    assert scenario.must.errors == scenario.must.wrong == 0
    assert scenario.system.replicas == 2


@pytest.mark.parametrize(
    ("right", "wrong", "line", "said"),
    [
        ("kill_replica", "kil", 6, "unknown fault 'kil'"),
        ("errors: 0", "errrs: 0", 9, "unknown key `errrs` at `must`"),
        ("ms: 5", "mss: 5", 7, "unknown key `mss` at `faults[1]`"),
        ("title: Mine", "titel: Mine", 2, "unknown key `titel`"),
        ("at: 6s", "at: 6x", 6, "a duration is written as 500ms, 5s or 1m, not as '6x'"),
        ("ms: 5", "ms: 0", 7, "one of `ms`"),
        ("rate: 100", "rate: -1", 4, "load.rate"),
        ("rate: 100", "rate: 100, users: {json: 0}", 4, "nobody asks"),
        ("at: 6s", "at: 1s", 6, "`faults[0].at` must be after calm"),
        ("at: 6s", "at: 6s, every: 2s", 6, "`every` and `until` belong together"),
        ("kill_replica", "redis_kill", 1, "`redis_kill` needs `system.redis: true`"),
        ("kill_replica", "kill_node", 1, "`kill_node` needs `system.nodes: 2`"),
        ("errors: 0", "goodput_min: 0.9", 9, "belong together"),
        ("at: 6s", "at: 6s, phase: Baking", 1, "`phase` needs a rollout"),
        ("name: mine", "name: [", 3, "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(right: str, wrong: str, line: int, said: str) -> None:
    text = complaint(FILE.replace(right, wrong))
    assert text.startswith(f"x.yaml:{line}: ")
    assert said in text


def test_an_unknown_fault_is_answered_with_those_that_there_are() -> None:
    assert "kill_haproxy" in complaint(FILE.replace("kill_replica", "melt"))


def test_a_file_without_anything_is_refused() -> None:
    assert complaint("").startswith("x.yaml:1: ")
    assert complaint("- a list").startswith("x.yaml:1: ")


def test_what_isnt_there_is_said_in_one_line() -> None:
    with pytest.raises(ScenarioError, match=r"there is no scenario 'nope'; there are .*replica_killed"):
        library.load("nope")
    with pytest.raises(ScenarioError, match=r"nowhere\.yaml: No such file"):
        library.load("nowhere.yaml")


def test_every_fault_has_a_hand_that_does_it() -> None:
    assert set(HANDS) == set(AnyFault.__args__)
    assert len(NAMES) == len(HANDS)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("5s", 5.0), ("1.5s", 1.5), ("2m", 120.0), (3, 3.0)])
def test_durations_are_as_people_write_them(text: object, seconds: float) -> None:
    assert decode(Seconds, text) == seconds


@pytest.mark.parametrize("text", ["5", "s", "-1s", -1, True, "5 s", None])
def test_anything_else_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="a duration is written as"):
        decode(Seconds, text)


DRAWN = """\
name: mine
title: Mine
what: A test.
load: {rate: 100, seconds: 1800}
draw: {at: 10s, every: 20s, until: 1770s, faults: [{fault: kill_replica}, {fault: slow, ms: 5}]}
"""


def test_a_scenario_whose_faults_are_drawn_can_last_as_long_as_one_likes() -> None:
    scenario = lasting(parse(DRAWN, "x.yaml"), 240)
    assert scenario.load.seconds == 240
    assert scenario.draw is not None
    assert float(scenario.draw.until) == 210
    assert lasting(scenario, 1800) == parse(DRAWN, "x.yaml")


@pytest.mark.parametrize(
    ("text", "seconds", "said"), [(FILE, 6.5, "`faults[1].at`"), (DRAWN, 3, "`calm`"), (DRAWN, 1, "load.seconds")]
)
def test_it_cant_be_shorter_than_what_stands_in_its_file(text: str, seconds: float, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        lasting(parse(text, "x.yaml"), seconds)
    assert str(caught.value).startswith(f"mine can't last {seconds:g} s: ")
    assert said in str(caught.value)


def test_every_line_of_the_fault_matrix_has_a_scenario() -> None:
    shown = {line for scenario in library.everything() for line in scenario.matrix}
    assert shown == set(LINES)


def test_a_line_that_the_matrix_doesnt_have_is_refused() -> None:
    assert "matrix" in complaint(FILE + "matrix: [replica eaten]\n")


def test_a_soak_is_played_only_by_name() -> None:
    together = {scenario.name for scenario in library.together()}
    assert {scenario.name for scenario in library.everything()} - together == {"soak"}
