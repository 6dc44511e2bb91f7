"""One rollout on one screen: readable at a glance at 80 columns, and never wider or longer than the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from typing import Any

import msgspec
import pytest

from serving.commands.screen import render
from serving.rollout.events import Abort, Pause, Promote, Resume, Rollback
from serving.rollout.report import ControllerReport, RolloutReport, report
from serving.rollout.state import Phase
from tests.rollouts import Run, at_first_weight, baking, rollout_spec, shut_out

WRITING = ControllerReport("writing", seq=57)
STEEP = rollout_spec(
    steps="[{setWeight: 5}, {setWeight: 25}, {setWeight: 60}, {setWeight: 100}]",
    analysis="{minAttempts: 400, shadow: {agreement: 0.9}, slo: {objective: 0.99}}",
)


def progressing() -> Run:
    """At 25 %, with a little evidence against it."""
    run = at_first_weight(STEEP)
    while run.state.weight < 25:
        run.at += 0.3
        if run.state.open is not None:
            run.applied()
        run.window(canary=40, stable=760, stable_bad=4, compared=10, agreed=10)
    for _ in range(3):
        run.window(canary=100, stable=300, bad=2, stable_bad=1, compared=20, agreed=19)
    return run


def paused() -> Run:
    run = progressing()
    run.hear(Pause(at=run.at, who="anna", why="lunch"))
    return run


def aborted() -> Run:
    run = progressing()
    run.hear(Abort(at=run.at, who="anna"))
    run.applied()
    run.gone("v2")
    return run


def promoted_early() -> Run:
    run = progressing()
    run.hear(Promote(at=run.at, who="anna"))
    return run


def bad_in_the_bake() -> Run:
    run = baking()
    while not run.in_phase(Phase.ROLLING_BACK):
        run.window(canary=200, stable=1, bad=100)
    return run


def succeeded() -> Run:
    run = baking()
    run.windows(130, canary=200)
    return run


STORIES: dict[str, Callable[[], Run]] = {
    "starting": Run,
    "progressing": progressing,
    "paused": paused,
    "shut out": shut_out,
    "aborted": aborted,
    "promoted early": promoted_early,
    "baking": baking,
    "bad in the bake": bad_in_the_bake,
    "succeeded": succeeded,
}


def screen(run: Run, width: int = 80, **options: Any) -> list[str]:
    return render(report(run.state), width, False, **{"zone": UTC, **options})


def the_way(run: Run) -> str:
    return next(line.strip() for line in screen(run) if " start " in line)


def test_a_rollout_under_way_at_80_columns() -> None:
    assert "\n".join(screen(progressing(), controller=WRITING)) == SNAPSHOTS["progressing"]


def test_a_rollout_that_was_taken_back_at_80_columns() -> None:
    assert "\n".join(screen(shut_out(), controller=WRITING)) == SNAPSHOTS["shut out"]


def test_a_bake_on_the_24_lines_of_an_old_terminal() -> None:
    assert "\n".join(screen(baking(), controller=WRITING, height=24)) == SNAPSHOTS["baking, 24 lines"]


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("width", [20, 40, 80, 132, 300])
def test_no_line_is_wider_than_the_terminal(story: str, width: int) -> None:
    standby = ControllerReport("standby", "another one writes the event log; this controller only looks on")
    lines = screen(STORIES[story](), width, controller=standby, note="nobody answers " * 9)
    assert [line for line in lines if len(line) > width] == []


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("height", [1, 5, 23, 24, 30, 50])
def test_there_are_never_more_lines_than_the_terminal_has(story: str, height: int) -> None:
    lines = screen(STORIES[story](), controller=WRITING, note="nobody answers", height=height)
    assert len(lines) <= height
    assert lines[0].strip().startswith("digits  v1 → v2") or height == 1
    assert lines[-1].strip() == "controller writing, event 57"


@pytest.mark.parametrize("story", STORIES)
def test_colours_are_all_that_colour_changes(story: str) -> None:
    told = report(STORIES[story]().state)
    plain, coloured = (render(told, 80, color, zone=UTC) for color in (False, True))
    assert "\x1b" not in "".join(plain)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured] == plain
    assert any("\x1b[" in line for line in coloured)


@pytest.mark.parametrize(
    ("story", "way"),
    [
        ("starting", "▶ start ─ ○ 5 % ─ ○ wait 60s ─ ○ 25 % ─ ○ person ─ ○ 100 % ─ ○ bake"),
        ("progressing", "✓ start ─ ✓ 5 % ─ ▶ 25 % ─ ○ 60 % ─ ○ 100 % ─ ○ bake"),
        ("paused", "✓ start ─ ✓ 5 % ─ ▶ 25 % ─ ○ 60 % ─ ○ 100 % ─ ○ bake"),
        ("aborted", "✓ start ─ ✓ 5 % ─ ✗ 25 % ─ ○ 60 % ─ ○ 100 % ─ ○ bake"),
        ("promoted early", "✓ start ─ ✓ 5 % ─ ✓ 25 % ─ - 60 % ─ - 100 % ─ ▶ promotion ─ ○ bake"),
        ("baking", "✓ start ─ ✓ 5 % ─ ✓ wait 60s ─ ✓ 25 % ─ ✓ person ─ ✓ 100 % ─ ▶ bake"),
        ("bad in the bake", "✓ start ─ ✓ 5 % ─ ✓ wait 60s ─ ✓ 25 % ─ ✓ person ─ ✓ 100 % ─ ✗ bake"),
        ("succeeded", "✓ start ─ ✓ 5 % ─ ✓ wait 60s ─ ✓ 25 % ─ ✓ person ─ ✓ 100 % ─ ✓ bake"),
    ],
)
def test_the_way_says_what_is_done_where_it_stands_and_what_is_to_come(story: str, way: str) -> None:
    assert the_way(STORIES[story]()) == way


def test_a_version_that_never_became_ready_ended_at_the_start() -> None:
    run = Run()
    run.failed("golden example 2 is off by 0.3", deploying=True)
    assert the_way(run).startswith("✗ start ─ ○ 5 %")
    assert any("golden example 2 is off by 0.3" in line for line in screen(run))


def test_a_long_way_takes_more_lines() -> None:
    steps = ", ".join(f"{{setWeight: {weight}}}" for weight in range(5, 101, 5))
    lines = screen(Run(rollout_spec(steps=f"[{steps}]")), 80)
    way = [line for line in lines if " % ─ " in line]
    assert len(way) == 3
    assert " ".join(way).count("○") == 21


@pytest.mark.parametrize(
    ("e_value", "bar"),
    [(0.5, "░" * 28), (1.0, "░" * 28), (150**0.5, "█" * 14 + "░" * 14), (149.9, "█" * 28), (1e300, "█" * 28)],
)
def test_every_factor_of_evidence_is_the_same_length(e_value: float, bar: str) -> None:
    told = report(progressing().state)
    told = msgspec.structs.replace(told, evidence=msgspec.structs.replace(told.evidence, e_value=e_value))
    line = next(line for line in render(told, 80, False, zone=UTC) if "evidence " in line)
    assert f" {bar}  " in line
    assert line.endswith("against it, 150 is enough")


def test_it_says_why_it_waits_and_what_a_person_can_do() -> None:
    text = "\n".join(screen(paused()))
    assert "reason     paused by anna: lunch" in text
    assert "waits for  a person: resume, promote, abort, rollback" in text
    assert "you can    resume, promote, abort, rollback" in text


def test_nothing_can_be_done_any_more_when_it_is_over() -> None:
    text = "\n".join(screen(aborted()))
    assert "you can" not in text
    assert "waits for" not in text
    assert "Aborted" in text


def test_what_speaks_against_it_is_told_in_full_however_short_the_screen_is() -> None:
    told = report(shut_out().state)
    text = " ".join(" ".join(render(told, 60, False, zone=UTC, height=40)).split())
    assert text.count("is enough") >= 2
    assert "✗ relative" in text


def test_of_a_long_history_the_newest_is_shown() -> None:
    run = progressing()
    for number in range(40):
        run.at += 1
        run.hear(Pause(at=run.at, who=f"person {number}"))
        run.at += 1
        run.hear(Resume(at=run.at, who="anna"))
    short = screen(run, height=45)
    assert any("resumed by" in line or "paused by" in line for line in short)
    assert "person 39" in "\n".join(short[-15:])
    assert "person 3:" not in "\n".join(short)
    assert "paused by person 0" in "\n".join(screen(run))


def test_the_time_of_a_rollback_is_told() -> None:
    run = at_first_weight()
    run.hear(Rollback(at=run.at, who="anna"))
    run.at += 0.25
    run.applied()
    assert any(line.strip() == "took       0.25 s until no gateway had v2" for line in screen(run))


def test_what_keeps_the_screen_from_being_of_now_is_near_the_top() -> None:
    lines = screen(progressing(), note="nobody answers; trying again, what is here is 3 s old")
    assert lines[2].strip() == "nobody answers; trying again, what is here is 3 s old"


@pytest.mark.parametrize(
    ("controller", "said"),
    [
        (ControllerReport("writing", seq=9), "controller writing, event 9"),
        (ControllerReport("log_corrupt", "event 3: missing"), "controller: log corrupt: event 3: missing"),
        (ControllerReport("starting"), "controller: starting"),
    ],
)
def test_the_last_line_says_how_the_controller_is(controller: ControllerReport, said: str) -> None:
    assert screen(progressing(), controller=controller)[-1].strip() == said


def test_names_and_reasons_of_others_cannot_move_the_cursor() -> None:
    told = report(progressing().state)
    told = msgspec.structs.replace(told, reason="\x1b[2J", started_by="\x1b]0;x\x07", model="a\rb", version="\x9b1A")
    assert all(line.isprintable() for line in render(told, 80, False, zone=UTC))


def test_a_report_that_came_over_the_wire_looks_the_same() -> None:
    told = report(bad_in_the_bake().state)
    received = msgspec.json.decode(msgspec.json.encode(told), type=RolloutReport)
    assert render(received, 80, False, zone=UTC) == render(told, 80, False, zone=UTC)


SNAPSHOTS = {
    "progressing": """\
 digits  v1 → v2                                            ● Progressing  17 s
 digits-1, started by anna at 00:16:40

 ✓ start ─ ✓ 5 % ─ ▶ 25 % ─ ○ 60 % ─ ○ 100 % ─ ○ bake

 weight     ███████░░░░░░░░░░░░░░░░░░░░░  25 % of the requests to v2
 evidence   ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  0.214 against it, 150 is enough
 budget     █████▎░░░░░░░░░░░░░░░░░░░░░░  18.9 % of the error budget left

 reason     digits@v2 has 25 % of the requests
 waits for  60 more first attempts at 25 %
 you can    pause, promote, abort, rollback

             first attempts      bad    share     slow  invalid
 v2 here                340        6   1.76 %        0        0
 v2                     740        6  0.811 %        0        0
 v1                   9,260       47  0.508 %        0        0
 agreement  98.2 % of 170 mirrored answers

 findings
  ✓ relative   6 of 53 bad first attempts were the canary's and its weight
               explains 5.25: evidence 0.214 against it, 150 is enough
  ✓ burn_rate  the budget burns at 0.811 times its rate over 300 s and 0.811
               times over 30 s (both over 14.4 is too fast; 6 bad events)
  ✓ validity   0 of 340 of the first attempts got an invalid answer, 0 % where
               1 % are allowed: within the limit
  ✓ agreement  3 of 170 of the compared answers disagreed, 1.76 % where 10 % are
               allowed: within the limit
  ✓ coverage   2 of 2 gateways reported

 history
  00:16:40  Progressing   5 %     13 s  25 % is being published

 controller writing, event 57""",
    "shut out": """\
 digits  v1 → v2                                            ● RolledBack  1.4 s
 digits-1, started by anna at 00:16:40

 ✓ start ─ ✓ 5 % ─ ✗ wait 60s ─ ○ 25 % ─ ○ person ─ ○ 100 % ─ ○ bake

 weight     ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  0 % of the requests to v2
 evidence   ████████████████████████████  6.01e+07 against it, 150 is enough
 budget     ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  0 % of the error budget left

 reason     7 of 7 bad first attempts were the canary's and its weight explains
            0.35: evidence 6.01e+07 against it, 150 is enough
 took       0.40 s until no gateway had v2
 waits for  the replicas of v2 to end

             first attempts      bad    share     slow  invalid
 v2                      20        7     35 %        0        0
 v1                     380        0      0 %        0        0

 findings
  ✗ relative   7 of 7 bad first attempts were the canary's and its weight
               explains 0.35: evidence 6.01e+07 against it, 150 is enough
  ✓ burn_rate  the budget burns at 35 times its rate over 300 s and 35 times
               over 30 s (both over 14.4 is too fast; 7 bad events), but 10 are
               needed to judge
  ✓ validity   0 of 20 of the first attempts got an invalid answer, 0 % where
               1 % are allowed: within the limit
  ✓ coverage   2 of 2 gateways reported

 history
  00:16:40  Progressing   5 %    1.0 s  7 of 7 bad first attempts were the
                                        canary's and its weight explains 0.35:
                                        evidence 6.01e+07 against it, 150 is
                                        enough
  00:16:41  RollingBack   5 %    0.4 s  no gateway has digits@v2 any more

 controller writing, event 57""",
    "baking, 24 lines": """\
 digits  v1 → v2                                               ● Baking  1m 50s
 digits-1, started by anna at 00:16:40
 ✓ start ─ ✓ 5 % ─ ✓ wait 60s ─ ✓ 25 % ─ ✓ person ─ ✓ 100 % ─ ▶ bake
 weight     ████████████████████████████  100 % of the requests to v2
 evidence   ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  1 against it, 150 is enough
 budget     ████████████████████████████  100 % of the error budget left
 bake       ░░░░░░░░░░░░░░░░░░░░░░░░░░░░  0.0 s of 2m 00s
 reason     digits@v2 has all requests; v1 is kept warm
 waits for  120 s more of the bake, 100 more first attempts at 100 %
 you can    pause, abort, rollback
             first attempts      bad    share     slow  invalid
 v2 here                  0        0                 0        0
 v2                     440        0      0 %        0        0
 v1                   4,400        0      0 %        0        0
 findings
  ✓ relative   0 of 0 bad first attempts were the canary's and its weight expla…
  ✓ burn_rate  the budget burns at 0 times its rate over 300 s and 0 times over…
  · validity   0 of 0 of the first attempts got an invalid answer: too few to j…
  ✓ coverage   2 of 2 gateways reported
 controller writing, event 57""",
}


@pytest.mark.parametrize(("version", "shown"), [("distilled-12", "distilled-12 "), ("x" * 60, "x" * 21 + "… ")])
def test_versions_with_long_names_can_be_told_apart(version: str, shown: str) -> None:
    told = msgspec.structs.replace(report(progressing().state), version=version)
    lines = render(told, 80, False, zone=UTC)
    assert any(re.match(rf" {re.escape(shown)} *[\d,]+ ", line) for line in lines)
    assert all(len(line) <= 80 for line in lines)
