"""Hypothesis gives orders, tells truths and lies, and kills: whatever happens, the world stays as promised.

The model below knows nothing of the table. It only looks at what the effects did to gateways and replicas.
"""

from __future__ import annotations

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from serving.rollout.desired import (
    DesiredState,
    Entry,
    decode_desired,
    decode_entry,
    due,
    encode_desired,
    encode_entry,
    recorded,
    undone,
)
from serving.rollout.events import (
    Abort,
    ClockTick,
    DeployVersion,
    Effect,
    Event,
    Finish,
    Observed,
    Pause,
    PauseNow,
    Promote,
    PublishPromotion,
    Resume,
    Rollback,
    RollBackNow,
    SetWeight,
    VersionFailed,
    VersionGone,
    VersionReady,
    Wait,
    WeightApplied,
)
from serving.rollout.evidence import Observation, VariantCounts
from serving.rollout.spec import RolloutSpec
from serving.rollout.state import TABLE, IllegalMove, Phase, RolloutState
from tests.rollouts import rollout_spec, start_of

Order = Pause | Resume | Promote | Abort | Rollback
COMMANDS: tuple[type[Order], ...] = (Pause, Resume, Promote, Abort, Rollback)
SELDOM = st.sampled_from([False] * 9 + [True])


def short_spec(breach: str, version: str) -> RolloutSpec:
    return rollout_spec(
        version=version,
        steps="[{setWeight: 10}, {pause: {duration: 3s}}, {setWeight: 50}, {pause: {}}, {setWeight: 100}]",
        analysis="{minAttempts: 20, metricsTimeout: 5s, "
        "slo: {objective: 0.9, burnRates: [{long: 8s, short: 2s, factor: 4}]}}",
        progressDeadline="30s",
        bake="{duration: 6s}",
        onBreach=breach,
        **{"from": "v1"},
    )


class Rollouts(RuleBasedStateMachine):
    """One model. ``weight``, ``stable`` and ``deployed`` are the world; ``done`` is what it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.desired = DesiredState()
        self.log: list[Entry] = []
        self.at = 1000.0
        self.weight = 0
        self.stable = "v1"
        self.deployed = {"v1"}
        self.was_ready = False
        self.baked_s = 0.0
        self.refused_versions: set[str] = set()
        self.answered: list[Entry] = []

    # what people do

    @initialize()
    def begin(self) -> None:
        self.start(breach="rollback", version="v2")

    @rule(breach=st.sampled_from(["rollback", "pause"]), version=st.sampled_from(["v2", "v3"]))
    def start(self, breach: str, version: str) -> None:
        running = self._state()
        spec = short_spec(breach, version)
        start = start_of(spec, rollout=self.desired.next_name("digits"), prior=self.stable, at=self.at)
        if (running is not None and not running.settled) or self.stable != "v1":
            assert not self._hear(start)
            return
        assert self._hear(start)
        self.was_ready, self.baked_s = False, 0.0
        self.refused_versions.discard(version)

    @rule(kind=st.sampled_from(COMMANDS), to_the_end=SELDOM)
    def command(self, kind: type[Order], to_the_end: bool) -> None:
        state = self._state()
        if state is None or (kind in (Abort, Rollback) and not to_the_end):
            return
        legal = kind in TABLE[state.phase]
        heard = self._hear(kind(at=self.at, who="anna"))
        if kind is not Promote:
            assert heard == legal

    # what is seen

    @rule(passed=st.sampled_from([0.0, 1.0, 7.0, 400.0, -100.0]))
    def tick(self, passed: float) -> None:
        self.at += passed
        self._hear(ClockTick(at=self.at))

    @rule(
        attempts=st.integers(0, 200),
        bad=st.sampled_from([0.0] * 6 + [0.1, 1.0]),
        invalid=st.sampled_from([0] * 6 + [1, 5]),
        reporting=st.sampled_from([2, 2, 2, 1, 0]),
        span=st.sampled_from([0.25, 1.0, 3.0]),
    )
    def window(self, attempts: int, bad: float, invalid: int, reporting: int, span: float) -> None:
        self.at += span
        canary = attempts * self.weight // 100
        faulty = min(canary, max(int(canary * bad), invalid))
        counts = VariantCounts(canary, faulty, 0, min(invalid, faulty))
        others = VariantCounts(attempts - canary, 0)
        state = self._state()
        baking = state is not None and state.phase is Phase.BAKING
        if (
            self._hear(
                Observed(
                    at=self.at,
                    observation=Observation(
                        self.at, span, self.weight / 100, counts, others, gateways=2, gateways_reporting=reporting
                    ),
                )
            )
            and baking
            and reporting == 2
        ):
            self.baked_s += span

    @rule(really=SELDOM)
    def crash(self, really: bool) -> None:
        if really:
            self._hear(VersionFailed(at=self.at, reason="crashed 3 times in 20 s"))

    @rule(windows=st.integers(1, 4))
    def all_goes_well(self, windows: int) -> None:
        for _ in range(windows):
            if undone(self.desired):
                self.carry_out(partly=False, fails=False)
            self.window(attempts=200, bad=0.0, invalid=0, reporting=2, span=1.0)

    # what the shell does

    @precondition(lambda self: bool(undone(self.desired)))
    @rule(partly=st.booleans(), fails=SELDOM)
    def carry_out(self, partly: bool, fails: bool) -> None:
        [(rollout, effect)] = undone(self.desired)
        answer = self._do(effect, partly=partly, fails=fails)
        self.answered.append(Entry(rollout, answer))
        assert self._hear(answer)

    @precondition(lambda self: bool(self.answered))
    @rule(data=st.data())
    def an_old_answer_comes_again(self, data: st.DataObject) -> None:
        """A partial one may bring nothing, a whole one was heard before: the effect that is open stays open."""
        entry = data.draw(st.sampled_from(self.answered))
        entry = Entry(entry.rollout, replace(entry.event, at=self.at))  # whoever writes it down looks at the clock then
        before = undone(self.desired)
        with suppress(IllegalMove):  # of a rollout that another one has followed
            self._record(entry)
        assert undone(self.desired) == before

    @rule(
        kind=st.sampled_from(["weight", "promote", "finish", "wait", "pause", "deploy"]),
        step=st.integers(0, 4),
        turn=st.sampled_from([0, 1, 1, 1, 2]),
    )
    def a_second_controller_decides_whatever_it_likes(self, kind: str, step: int, turn: int) -> None:
        """It may only do what the table and the promises of ``apply`` let it; the invariants see to the rest."""
        state = self._state()
        if state is None:
            return
        version, at, number = state.spec.version, self.at, state.decided + turn
        decisions: dict[str, Event] = {
            "weight": SetWeight(at=at, id=number, step=step, version=version, weight=[10, 7, 50, 60, 100][step]),
            "promote": PublishPromotion(at=at, id=number, version=version, prior="v1"),
            "finish": Finish(at=at, id=number, outcome="Succeeded", remove="v1", reason="in a hurry"),
            "wait": Wait(at=at, id=number, step=step),
            "pause": PauseNow(at=at, id=number, cause="metrics", reason="nothing heard"),
            "deploy": DeployVersion(at=at, id=number, version=version),
        }
        self._hear(decisions[kind])

    @rule()
    def the_controller_dies_and_folds_the_log_again(self) -> None:
        desired = DesiredState()
        for entry in self.log:
            desired = recorded(desired, decode_entry(encode_entry(entry)))
        assert desired == self.desired
        self.desired = decode_desired(encode_desired(desired))

    # what must hold

    @invariant()
    def nothing_is_due_after_all_is_decided(self) -> None:
        assert due(self.desired) == ()

    @invariant()
    def the_canary_has_traffic_only_after_it_was_ready(self) -> None:
        if self.weight:
            assert self.was_ready

    @invariant()
    def what_was_taken_back_has_no_traffic_once_that_is_done(self) -> None:
        state = self._state()
        if state is not None and (state.taken_back or state.phase in (Phase.ROLLED_BACK, Phase.ABORTED)):
            assert self.weight == 0
            assert self.stable == state.prior
        assert not (self.refused_versions & {self.stable})

    @invariant()
    def somebody_always_answers(self) -> None:
        assert self.stable in self.deployed
        assert "v1" in self.deployed or self.baked_s >= 6.0

    @invariant()
    def the_state_knows_no_more_weight_than_its_step(self) -> None:
        state = self._state()
        if state is not None and state.phase is Phase.PROGRESSING:
            most = max((step.set_weight or 0 for step in state.spec.steps[: state.step + 1]), default=0)
            assert state.weight <= most
            assert self.weight <= most

    def _state(self) -> RolloutState | None:
        return self.desired.rollouts.get("digits")

    def _hear(self, event: Event) -> bool:
        """Whether it was taken. What is refused changes nothing."""
        state = self._state()
        rollout = getattr(event, "rollout", state.rollout if state else "digits-1")
        before = self.desired
        try:
            self._record(Entry(rollout, event))
        except IllegalMove:
            assert self.desired is before
            return False
        while entries := due(self.desired):
            for entry in entries:
                self._record(entry)
        return True

    def _record(self, entry: Entry) -> None:
        self.desired = recorded(self.desired, entry)
        self.log.append(entry)

    def _do(self, effect: Effect, *, partly: bool, fails: bool) -> Event:
        match effect:
            case DeployVersion(id=number, version=version):
                if fails:
                    return VersionFailed(at=self.at, effect=number, reason="golden example 1 is off by 0.5")
                self.deployed.add(version)
                self.was_ready = True
                return VersionReady(at=self.at, effect=number)
            case SetWeight(id=number, version=version, weight=weight):
                assert version not in self.refused_versions
                self.weight = weight
                return self._told(number, weight, partly=partly)
            case PublishPromotion(id=number, version=version):
                assert version not in self.refused_versions
                self.weight, self.stable = 100, version
                return self._told(number, 100, partly=partly)
            case RollBackNow(id=number, version=version, prior=prior, withdraw=withdraw):
                self.weight, self.stable = 0, prior
                if withdraw:
                    self.refused_versions.add(version)
                    assert f"digits@{version}" in self.desired.rolled_back
                return self._told(number, 0, partly=partly)
            case Finish(id=number, remove=version):
                assert version != self.stable
                self.deployed.discard(version)
                return VersionGone(at=self.at, effect=number, version=version)

    def _told(self, number: int, weight: int, *, partly: bool) -> Event:
        return WeightApplied(
            at=self.at, effect=number, generation=1, weight=weight, acknowledged=1 if partly else 2, gateways=2
        )


Rollouts.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestRollouts = Rollouts.TestCase
