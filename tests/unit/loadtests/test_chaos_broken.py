"""For every protection a scenario has to notice that it is off, and by the promise that is about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.chaos import broken, library
from loadtests.chaos.broken import BEGIN, END, Noticed
from loadtests.chaos.cli import main
from loadtests.chaos.faults import KillReplica
from loadtests.chaos.protections import PROTECTIONS, scenario_without, settings_without
from loadtests.chaos.spec import ScenarioError, parse
from loadtests.chaos.verdict import Verdict
from loadtests.chaos.verdicts import Seen, judge
from loadtests.chaos.world import arguments
from loadtests.resilience import setups
from loadtests.resilience.errors import RunError
from loadtests.rollouts.files import rollout_file
from serving.rollout.file import parse_rollout

CALM = Verdict("steady state first", True, "")
PAGE = Path(__file__).parents[3] / "docs" / "chaos.md"


@pytest.mark.parametrize("name", PROTECTIONS)
def test_every_protection_has_a_scenario_with_a_promise_about_it(name: str) -> None:
    protection = PROTECTIONS[name]
    promises = [verdict.promise for verdict in judge(library.load(protection.scenario), [], Seen())]
    for word in protection.about:
        assert any(word in promise for promise in promises), word


@pytest.mark.parametrize("name", PROTECTIONS)
def test_taking_one_away_changes_the_settings_or_the_rollout_and_nothing_else(name: str) -> None:
    scenario = library.load(PROTECTIONS[name].scenario)
    settings = arguments(scenario.system, store=Path("store"), redis_url=None, event_log=None)
    changes = (scenario_without(name, scenario) != scenario, settings_without(name, settings) != settings)
    assert sorted(changes) == [False, True]
    assert scenario_without(None, scenario) == scenario
    assert settings_without(None, settings) == settings


def test_what_was_meant_for_the_version_is_meant_for_the_one_in_its_place() -> None:
    kill, gateway = scenario_without("rightness", library.load("canary_good_among_faults")).faults
    assert isinstance(kill, KillReplica)
    assert kill.target.version == "mixes-up"
    assert gateway == library.load("canary_good_among_faults").faults[1]


def test_every_protection_that_is_a_setting_is_among_them() -> None:
    assert set(setups.PROTECTIONS) <= set(PROTECTIONS)


@pytest.mark.parametrize("name", [name for name, one in PROTECTIONS.items() if one.change])
def test_a_rollout_without_one_is_still_such_as_holdfast_takes(name: str) -> None:
    rollout = scenario_without(name, library.load(PROTECTIONS[name].scenario)).rollout
    assert rollout is not None
    file = rollout_file(rollout.version, analysis=rollout.analysis, stickiness=rollout.stickiness)
    assert parse_rollout(file).version == rollout.version


def test_only_a_promise_about_the_protection_counts_as_noticed() -> None:
    errors = Verdict("0 client errors", False, "9 of 99")
    assert Noticed("retry", [CALM, errors]).noticed
    assert not Noticed("retry", [CALM, errors._replace(held=True)]).noticed
    assert not Noticed("retry", [CALM, Verdict("a replacement serves within 5 s", False, "after 6 s")]).noticed


def test_a_run_without_calm_or_without_an_end_has_noticed_nothing() -> None:
    errors = Verdict("0 client errors", False, "9 of 99")
    assert not Noticed("retry", [CALM._replace(held=False), errors]).noticed
    assert not Noticed("retry", why="holdfast ended").noticed
    assert "NOT NOTICED: holdfast ended" in broken.row(Noticed("retry", why="holdfast ended"))


RETRY = Noticed("retry", [CALM, Verdict("0 client errors", False, "9 of 99")])
CACHE = Noticed("cache", [CALM, Verdict("at most 0.0% get the static answer", False, "5 static")])


def test_what_is_told_has_the_figures() -> None:
    assert broken.row(RETRY).startswith("| retry |")
    assert broken.row(RETRY).endswith(f"| {PROTECTIONS['retry'].scenario} | 0 client errors: 9 of 99 |\n")
    assert broken.in_a_terminal([RETRY, Noticed("cache")]).endswith("1 of 2 were noticed")


def test_each_line_takes_the_place_of_the_one_that_the_page_has() -> None:
    page = f"# Page\n\n{BEGIN}\n{END}\nthe rest\n"
    both = broken.written(broken.written(page, CACHE), RETRY)
    lines = [line for line in both.splitlines() if line.startswith("|")]
    assert lines[2:] == [broken.row(RETRY).strip(), broken.row(CACHE).strip()]
    assert both.startswith("# Page\n")
    assert both.endswith(f"\n{END}\nthe rest\n")
    assert broken.written(both, CACHE) == both
    with pytest.raises(RunError, match="no place"):
        broken.written("# Page\n", CACHE)


def test_every_line_on_the_page_is_of_a_protection_that_was_noticed_by_its_scenario() -> None:
    table = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    told = {row[0]: row[2] for row in rows[2:]}
    assert told == {name: PROTECTIONS[name].scenario for name in told}
    assert told
    assert "NOT NOTICED" not in table


def test_an_unknown_protection_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["broken", "--only", "retry,nope"]) == 2
    assert "there is no protection 'nope'; there are retry, breaker" in capsys.readouterr().err


def test_keys_are_followed_only_where_they_have_no_reason_to_go_back() -> None:
    text = (library.FOLDER / "canary_fails.yaml").read_text()
    with pytest.raises(ScenarioError, match="sticky_moves_max"):
        parse(f"{text}  sticky_moves_max: 0\n", "x.yaml")
