"""What the table says where a rollout stands: no request goes to a version that needn't run, or was taken back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ModelNotFound
from serving.rollout.desired import DesiredState
from serving.rollout.events import Abort, Pause, Promote, PublishPromotion, Resume, Rollback, RollBackNow, SetWeight
from serving.rollout.standing import Standing, arranged, held_by, standing, standings
from serving.rollout.state import IllegalMove, Phase
from serving.routing.table import Mirrored, ModelRoute, RoutingTable, Split
from tests.rollouts import Run, at_first_weight, baking, rollout_spec, settled

SHADOWED = rollout_spec(analysis="{minAttempts: 100, latencyObjective: 250ms, shadow: {agreement: 0.9, share: 0.25}}")
BOTH = RoutingTable(7, {"digits": ModelRoute("v1", {"v1": "sha256:1", "v2": "sha256:2"})})


def percent(where: Standing) -> int:
    return 0 if where.split is None else round(100 * where.split.weight)


def test_before_the_canary_is_ready_it_needn_t_run() -> None:
    assert standing(Run().state) == Standing("v1", ("v1",), ("v1", "v2"))


def test_a_weight_counts_from_when_it_is_decided() -> None:
    run = Run()
    run.ready()
    assert isinstance(run.state.open, SetWeight)
    where = standing(run.state)
    assert run.state.weight == 0
    assert where.split == Split(version="v2", weight=0.05, epoch="digits-1", stickiness="key", objective_s=0.25)
    assert (where.stable, where.needed) == ("v1", ("v1", "v2"))


def test_promoted_it_has_all_requests_and_the_prior_version_still_stands_by() -> None:
    run = at_first_weight()
    run.hear(Promote(at=run.at, who="anna"))
    assert isinstance(run.state.open, PublishPromotion)
    for state in (run.state, baking().state):
        where = standing(state)
        assert (where.stable, where.needed, percent(where)) == ("v1", ("v1", "v2"), 100)


def test_at_its_end_one_of_the_two_is_left() -> None:
    assert standing(settled().state) == Standing("v2", ("v2",), ("v1", "v2"), settled=True)
    assert standing(settled(bad=10).state) == Standing("v1", ("v1",), ("v1", "v2"), settled=True)


def test_from_the_moment_of_its_rollback_it_has_nothing() -> None:
    run = at_first_weight(SHADOWED)
    run.hear(Rollback(at=run.at, who="anna"))
    assert standing(run.state) == Standing("v1", ("v1",), ("v1", "v2"))


def test_a_pause_changes_nothing() -> None:
    run = at_first_weight()
    before = standing(run.state)
    run.hear(Pause(at=run.at, who="anna"))
    assert standing(run.state) == before


def test_answers_are_mirrored_until_there_is_nothing_to_mirror_from() -> None:
    run = Run(SHADOWED)
    assert standing(run.state).mirror is None
    run.ready()
    assert standing(run.state).mirror == Mirrored("v2", 0.25)
    run.applied()
    run.hear(Promote(at=run.at, who="anna"))
    assert standing(run.state).mirror is None


class TestTables:
    def test_to_arrange_what_is_so_already_changes_nothing(self) -> None:
        where = standing(at_first_weight(SHADOWED).state)
        table = arranged(BOTH, "digits", where)
        assert table.generation == BOTH.generation + 1
        assert table.models["digits"].split == where.split
        assert arranged(table, "digits", where) is table

    def test_a_version_that_is_not_served_can_not_be_arranged(self) -> None:
        only = RoutingTable(7, {"digits": ModelRoute("v1", {"v1": "sha256:1"})})
        with pytest.raises(ValueError, match="v2"):
            arranged(only, "digits", standing(at_first_weight().state))
        with pytest.raises(ModelNotFound):
            arranged(only, "digits", standing(settled().state))


class TestSettings:
    where = standing(settled().state)

    @pytest.mark.parametrize(("named", "wins"), [("v3", True), ("v1", False), ("v2", False), (None, False)])
    def test_only_a_version_that_the_rollout_knew_nothing_of_counts_for_more(
        self, named: str | None, wins: bool
    ) -> None:
        assert self.where.gives_way_to(named) is wins

    def test_and_only_when_the_rollout_is_over(self) -> None:
        assert not standing(at_first_weight().state).gives_way_to("v3")


def test_commands_by_hand_wait_for_the_end_of_a_rollout() -> None:
    run, done = at_first_weight(), settled()
    assert "digits-1 (v1 to v2) of 'digits' is Progressing" in held_by(
        DesiredState(rollouts={"digits": run.state}), "digits"
    )
    assert held_by(DesiredState(rollouts={"digits": done.state}), "digits") == ""
    assert held_by(DesiredState(), "digits") == ""


def test_a_version_that_was_taken_back_is_marked() -> None:
    desired = DesiredState(rolled_back={"digits@v2": "bad"})
    assert desired.rolled_back == {"digits@v2": "bad"}
    assert standings(DesiredState(rollouts={"digits": Run().state})) == {"digits": standing(Run().state)}


ACTIONS = (
    "ready",
    "applied",
    "good",
    "bad",
    "tick",
    "failed",
    "pause",
    "resume",
    "promote",
    "abort",
    "rollback",
    "gone",
)


def act(run: Run, action: str) -> None:
    commands: dict[str, Any] = {
        "pause": Pause,
        "resume": Resume,
        "promote": Promote,
        "abort": Abort,
        "rollback": Rollback,
    }
    if action in commands:
        run.hear(commands[action](at=run.at, who="anna"))
    elif action == "good":
        run.window(canary=150, stable=500)
    elif action == "bad":
        run.window(canary=150, stable=500, bad=60)
    elif action == "tick":
        run.tick(60.0)
    elif action == "failed":
        run.failed("crashed")
    elif run.state.open is not None:
        run.gone("v2" if standing(run.state).stable == "v1" else "v1") if action == "gone" else getattr(run, action)()


@given(actions=st.lists(st.sampled_from(ACTIONS), max_size=40), shadowed=st.booleans())
def test_whatever_happens_requests_only_go_to_versions_that_run(actions: list[str], shadowed: bool) -> None:
    run = Run(SHADOWED if shadowed else None)
    for action in actions:
        try:
            act(run, action)
        except IllegalMove:
            continue
        state, where = run.state, standing(run.state)
        asked = {where.stable, *(part.version for part in (where.split, where.mirror) if part is not None)}
        assert asked <= set(where.needed) <= {"v1", "v2"}
        assert (percent(where) > 0) <= (
            state.step >= 0 or state.phase is Phase.PROMOTING or state.phase is Phase.BAKING
        )
        if isinstance(state.open, RollBackNow) or state.phase in (Phase.ROLLED_BACK, Phase.ABORTED):
            assert where == Standing("v1", ("v1",), ("v1", "v2"), settled=state.settled)
        if isinstance(state.open, SetWeight) and state.phase is not Phase.ROLLING_BACK:
            assert percent(where) == state.open.weight
        table = arranged(BOTH, "digits", where)
        assert arranged(table, "digits", where) is table
        if state.settled:
            return
