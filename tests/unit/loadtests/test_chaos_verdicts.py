"""Every promise of a scenario can be kept, and each can be broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loadtests.chaos import table
from loadtests.chaos.durations import Seconds
from loadtests.chaos.faults import Cut, Fault, KillHaproxy, KillReplica, RestartEverything, Target
from loadtests.chaos.spec import Must, Rollout, Scenario, System
from loadtests.chaos.verdict import Verdict
from loadtests.chaos.verdicts import Performed, Seen, judge, steady_state
from loadtests.users.load import Load
from loadtests.users.rows import HEADER, Outcome, Row, parse_rows

RATE, SECONDS, CALM_S, FAULT_S = 50, 20.0, 4.0, 6.0


def scenario(shape: Any = "steady", rollout: Rollout | None = None, **must: Any) -> Scenario:
    return Scenario(
        name="mine",
        title="Mine",
        what="",
        load=Load(rate=RATE, seconds=SECONDS, shape=shape, timeout=1),
        calm=Seconds(CALM_S),
        system=System(stable="v1" if rollout else "v2"),
        rollout=rollout,
        must=Must(**must),
    )


def row(
    due_s: float, took_s: float = 0.01, outcome: Outcome = Outcome.OK, *, user: str = "json", status: int = 200
) -> Row:
    return Row(due_s, due_s, due_s + took_s, user, "digits", status, outcome, "digits@v2", "")


def rows(change: Callable[[Row], Row] = lambda one: one) -> list[Row]:
    return [change(row(index / RATE)) for index in range(int(SECONDS * RATE))]


def between(from_s: float, to_s: float, **changed: Any) -> Callable[[Row], Row]:
    return lambda one: one._replace(**changed) if from_s <= one.due_s < to_s else one


def slow(from_s: float, to_s: float, took_s: float) -> Callable[[Row], Row]:
    return lambda one: one._replace(done_s=one.due_s + took_s) if from_s <= one.due_s < to_s else one


def done(fault: Fault | None = None, **more: Any) -> Performed:
    found = Performed(FAULT_S, 8.0, fault or KillReplica(), "kill_replica", "digits@v2", "", back_s=2.0)
    return found._replace(**more)


def verdict(of: Scenario, found: list[Row], seen: Seen | None = None, *, about: str) -> Verdict:
    verdicts = [each for each in judge(of, found, seen or Seen(performed=[done()])) if about in each.promise]
    assert len(verdicts) == 1, verdicts
    return verdicts[0]


def test_calm_is_good_when_nearly_all_are_answered_well_and_soon() -> None:
    assert steady_state(rows(), CALM_S, 200).held
    assert not steady_state(rows(), CALM_S, 300).held
    assert not steady_state(rows(between(2, 2.03, outcome=Outcome.DEGRADED)), CALM_S, 200).held
    assert not steady_state(rows(slow(0, 4, 2.0)), CALM_S, 200).held


def test_one_client_error_is_one_too_many_and_its_status_is_told() -> None:
    assert verdict(scenario(), rows(), about="client errors").held
    found = verdict(scenario(), rows(between(7, 7.02, outcome=Outcome.ERROR, status=503)), about="client errors")
    assert not found.held
    assert found.seen == "1 of 1 000 (1 503)"


def test_a_wrong_answer_breaks_the_promise() -> None:
    assert not verdict(scenario(), rows(between(7, 7.02, outcome=Outcome.WRONG)), about="wrong").held


def test_only_what_was_in_flight_may_be_lost() -> None:
    seen = Seen(performed=[done(KillHaproxy())])
    must = scenario(errors="in_flight")
    flying = between(FAULT_S - 0.02, FAULT_S, outcome=Outcome.ERROR, done_s=FAULT_S + 0.01)
    assert verdict(must, rows(flying), seen, about="in flight").held
    later = between(FAULT_S + 0.5, FAULT_S + 0.6, outcome=Outcome.ERROR)
    assert not verdict(must, rows(later), seen, about="in flight").held


def test_while_everything_is_restarted_nobody_can_be_answered() -> None:
    seen = Seen(performed=[done(RestartEverything(), excused=True)])
    assert verdict(scenario(), rows(between(6.5, 7.5, outcome=Outcome.ERROR)), seen, about="client errors").held
    assert not verdict(scenario(), rows(between(9, 9.5, outcome=Outcome.ERROR)), seen, about="client errors").held


@pytest.mark.parametrize(
    ("must", "broken", "about"),
    [
        ({"degraded_max": 0.1}, between(7, 10, outcome=Outcome.DEGRADED), "degraded"),
        ({"shed_max": 0.1}, between(7, 10, outcome=Outcome.SHED), "shed"),
        ({"p99_max": Seconds(0.5)}, slow(7, 8, 0.6), "p99"),
        ({"p99_over_calm_max": 5.0}, slow(7, 8, 0.2), "times calm"),
        ({"recover_within": Seconds(2)}, between(6, 9, outcome=Outcome.DEGRADED), "calm again"),
    ],
)
def test_each_bound_holds_in_calm_and_not_beyond_it(
    must: dict[str, Any], broken: Callable[[Row], Row], about: str
) -> None:
    assert verdict(scenario(**must), rows(), about=about).held
    assert not verdict(scenario(**must), rows(broken), about=about).held


def test_slow_readers_dont_make_the_system_slow() -> None:
    found = [*rows(), *(row(7 + index / 100, 3.0, user="slow_readers") for index in range(100))]
    assert verdict(scenario(p99_max=Seconds(0.5)), found, about="p99").held


def test_recovery_from_what_hurts_all_counts_from_its_end() -> None:
    hurt = rows(between(6, 8.5, outcome=Outcome.DEGRADED))
    everyone = done(Cut(target=Target(which="all")), back_s=None)
    assert verdict(scenario(recover_within=Seconds(1)), hurt, Seen(performed=[everyone]), about="calm again").held
    someone = done(Cut(), back_s=None)
    assert not verdict(scenario(recover_within=Seconds(1)), hurt, Seen(performed=[someone]), about="calm again").held


def test_a_fault_that_never_was_isnt_overcome() -> None:
    assert not verdict(scenario(recover_within=Seconds(9)), rows(), Seen(), about="calm again").held


def test_a_replacement_must_come_in_time() -> None:
    assert verdict(scenario(back_within=Seconds(2)), rows(), about="replacement").held
    assert not verdict(scenario(back_within=Seconds(1)), rows(), about="replacement").held
    assert not verdict(scenario(back_within=Seconds(1)), rows(), Seen(), about="replacement").held


def test_a_fault_that_nobody_met_proves_nothing() -> None:
    must = scenario(met_by=["replica_lost"])
    assert verdict(must, rows(), Seen(attempts={"replica_lost": 1}), about="met").held
    assert not verdict(must, rows(), Seen(attempts={"ok": 9}), about="met").held
    assert not verdict(scenario(degraded_min=1), rows(), about="did nothing").held


def test_breakers_and_ejections_must_be_seen() -> None:
    assert verdict(scenario(breaker_opens=True), rows(), Seen(breakers=[(7.0, 2.0)]), about="breaker").held
    assert not verdict(scenario(breaker_opens=True), rows(), Seen(breakers=[(7.0, 1.0)]), about="breaker").held
    assert verdict(scenario(ejects=True), rows(), Seen(ejected=True), about="ejected").held
    assert not verdict(scenario(ejects=True), rows(), Seen(), about="ejected").held


def test_goodput_is_held_against_the_peak() -> None:
    must = scenario("overload", goodput_min=0.9)
    assert verdict(must, rows(), Seen(peak=50.0), about="goodput").held
    assert not verdict(must, rows(), Seen(peak=60.0), about="goodput").held
    assert not verdict(must, rows(), Seen(), about="goodput").held


def test_shed_answers_must_be_quick_and_there() -> None:
    must = scenario(shed_max=None, shed_within=Seconds(0.05))
    assert verdict(must, rows(between(6, 9, outcome=Outcome.SHED)), about="shed within").held
    assert not verdict(must, rows(between(6, 9, outcome=Outcome.SHED, done_s=20)), about="shed within").held
    assert not verdict(must, rows(), about="shed within").held


def test_memory_may_not_grow_after_the_first_quarter() -> None:
    must = scenario(memory_growth_max=10.0)
    flat = [(float(at), 100.0 if at else 50.0) for at in range(20)]
    assert verdict(must, rows(), Seen(memory=flat), about="grow").held
    assert not verdict(must, rows(), Seen(memory=[*flat, (20.0, 120.0)]), about="grow").held


def test_a_rollout_must_end_as_it_should_and_soon() -> None:
    must = scenario(
        rollout=Rollout(version="nan-50", at=Seconds(5)), ends_as="RolledBack", rolled_back_within=Seconds(1)
    )
    good = Seen(ended_as="RolledBack", rollback_s=0.2)
    assert verdict(must, rows(), good, about="ends as").held
    assert verdict(must, rows(), good, about="rolled back within").held
    assert not verdict(must, rows(), Seen(ended_as="Succeeded"), about="ends as").held
    assert not verdict(must, rows(), Seen(ended_as="RolledBack"), about="rolled back within").held


def test_the_static_answer_is_for_the_utmost_need() -> None:
    must = scenario(static_max=0.01)
    assert verdict(must, rows(between(7, 9, outcome=Outcome.DEGRADED, degraded="cache")), about="static").held
    assert not verdict(must, rows(between(7, 9, outcome=Outcome.DEGRADED, degraded="static")), about="static").held


def test_a_version_that_fails_is_to_be_spared() -> None:
    must = scenario(failed_attempts_max=10)
    assert verdict(must, rows(), Seen(attempts={"ok": 9, "model_failed": 10, "circuit_open": 99}), about="vain").held
    assert not verdict(must, rows(), Seen(attempts={"model_failed": 6, "replica_lost": 5}), about="vain").held


def test_sticky_keys_keep_their_version() -> None:
    must = scenario(rollout=Rollout(version="v2", at=Seconds(5)), ends_as="Succeeded", sticky_moves_max=0)
    good = rows(between(0, 8, user="sticky", version="digits@v1"))
    good = [each._replace(user="sticky") for each in good]
    seen = Seen(keys={f"{each.due_s:.5f}": index % 7 for index, each in enumerate(good)})
    assert verdict(must, good, seen, about="sticky keys").held
    back = [each._replace(version="digits@v1") if 12 <= each.due_s < 12.1 else each for each in good]
    assert verdict(must, back, seen, about="sticky keys").seen == "5 answers went back, 7 keys met the canary"
    assert not verdict(must, back, seen, about="sticky keys").held
    nobody = [each._replace(version="digits@v1") for each in good]
    assert not verdict(must, nobody, seen, about="sticky keys").held


def test_no_model_works_for_those_who_went_away() -> None:
    gone = rows(between(8, 18, outcome=Outcome.CANCELLED))
    must = scenario(cancelled_computed_max=0.5)
    assert verdict(must, gone, Seen(computed=500 + 200), about="cancelled").held
    assert not verdict(must, gone, Seen(computed=500 + 300), about="cancelled").held


def test_what_a_fault_promised_and_what_went_wrong_with_the_run_are_told() -> None:
    assert not verdict(scenario(), rows(), Seen(promises=[(False, "it is refused")]), about="it is refused").held
    assert not verdict(scenario(), rows(), Seen(troubles=["no replica"]), about="the run itself").held


def test_the_table_names_what_was_broken() -> None:
    line = table.line("mine", rows(), [Verdict("0 errors", False, "3 of 9"), Verdict("fine", True, "")])
    assert "mine" in table.of_all([line])
    assert "NOT held: 0 errors: 3 of 9" in table.of_all([line])
    assert "0 of 1 scenarios held" in table.of_all([line])
    assert not table.line("nothing", [], []).held


def test_rows_are_read_as_they_were_written() -> None:
    found = [row(1.5, 0.25), row(2.5, outcome=Outcome.CANCELLED, status=0)]
    lines = "".join(one.line() for one in found).splitlines()
    assert parse_rows(lines) == found
    assert len(lines[0].split(",")) == len(HEADER.split(","))
