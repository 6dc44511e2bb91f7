"""Each first attempt becomes part of one observation: whatever is lost, and whoever is started anew."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from serving.rollout.collector import IDLE_S, MISSED_S, SILENT_MAX, Collector, Windowed, worth_logging
from serving.rollout.cursor import GatewayCursor
from serving.rollout.desired import Entry, decode_entry, encode_entry
from serving.rollout.events import Observed
from serving.rollout.evidence import Observation, VariantCounts
from serving.routing.collected import Collected
from serving.routing.outcomes import Kind, Ledger, SplitOutcomes
from serving.shadow.counts import MirrorCounts

NONE = VariantCounts()
ROLLOUT = "digits-1"


class FakeGateway:
    """The real counts of a gateway, without the gateway."""

    def __init__(self, name: str, started: float = 100.0) -> None:
        self.name = name
        self.started = started
        self.ledger = Ledger(ROLLOUT, "v2", "v1")
        self.mirror = MirrorCounts("digits", "digits@v2")
        self.weight = 0.05
        self.fault = ""
        self.tells_outcomes = True

    def attempt(
        self, *, canary: bool = True, bad: Kind | None = None, key: int | None = None, times: int = 1, at: float = 0.05
    ) -> None:
        variant = self.ledger.at(at)[0 if canary else 1]
        for _ in range(times):
            variant.attempts += 1
            if bad is not None:
                self.ledger.bad(variant, bad, key)

    def compare(self, *, agreed: bool = True, times: int = 1) -> None:
        mirror = self.mirror
        self.mirror = msgspec.structs.replace(
            mirror,
            compared_requests=mirror.compared_requests + times,
            agreed_requests=mirror.agreed_requests + agreed * times,
        )

    def tell(self, keys_from: int = 0) -> Collected:
        ledger = self.ledger
        outcomes = SplitOutcomes(
            gateway=self.name,
            started=self.started,
            generation=1,
            model="digits",
            epoch=ledger.epoch,
            canary="v2",
            stable="v1",
            weight=self.weight,
            ended=False,
            fault=self.fault,
            weights=ledger.counts(),
            bad_keys=ledger.bad_keys(keys_from),
            next_key=ledger.next_key,
            keys_full=ledger.keys_full,
        )
        return Collected(self.name, self.started, 1, (outcomes,) if self.tells_outcomes else (), (self.mirror,))


def collector(cursor: tuple[GatewayCursor, ...] = (), *, since: float = 0.0) -> Collector:
    return Collector(ROLLOUT, "digits", "v2", cursor, since=since)


def collect(
    ours: Collector, *asked: FakeGateway, gateways: int | None = None, seconds: float = IDLE_S, weight: float = 0.05
) -> list[Windowed]:
    """Ask these; by default so long after the last time that it is logged."""
    keys_from = ours.keys_from()
    answers = [gateway.tell(keys_from.get(gateway.name, 0)) for gateway in asked]
    known = len(asked) if gateways is None else gateways
    return ours.taken(answers, gateways=known, at=1000.0, seconds=seconds, weight=weight)


def the_one(windows: list[Windowed]) -> Observation:
    [window] = windows
    return window.observation


def test_what_is_new_since_the_last_time_is_an_observation() -> None:
    one, other, ours = FakeGateway("a"), FakeGateway("b"), collector()
    one.attempt(times=7)
    other.attempt(canary=False, times=40)
    other.attempt(bad="invalid")
    first = the_one(collect(ours, one, other, seconds=0.25))
    assert first == Observation(1000.0, 0.25, 0.05, VariantCounts(8, 1, 0, 1), VariantCounts(40), 0, 0, 2, 2)
    one.attempt(times=2, bad="slow")
    assert the_one(collect(ours, one, other)).canary == VariantCounts(2, 2, 2)


def test_what_was_thrown_before_a_step_is_a_window_of_no_time_before_the_one_that_has_it() -> None:
    gateway, ours = FakeGateway("a"), collector()
    gateway.attempt(at=0.25, times=3)
    gateway.attempt(at=0.05)
    gateway.compare(times=4)
    late, here = collect(ours, gateway, weight=0.25)
    assert late.observation == Observation(1000.0, 0.0, 0.05, VariantCounts(1), NONE, 0, 0, 1, 1)
    assert here.observation == Observation(1000.0, IDLE_S, 0.25, VariantCounts(3), NONE, 4, 4, 1, 1)


def test_an_answer_that_is_lost_costs_coverage_and_no_counts() -> None:
    one, other, ours = FakeGateway("a"), FakeGateway("b"), collector()
    collect(ours, one, other)
    other.attempt()
    lost = the_one(collect(ours, one, gateways=2))
    assert (lost.canary, lost.gateways, lost.gateways_reporting) == (NONE, 2, 1)
    assert the_one(collect(ours, one, other)).canary == VariantCounts(1)


@pytest.mark.parametrize("name", ["a", "another"])
def test_a_gateway_that_was_started_anew_begins_at_nothing(name: str) -> None:
    ours, gateway = collector(), FakeGateway("a")
    gateway.attempt(times=5, bad="failed", key=1)
    gateway.compare(times=5)
    collect(ours, gateway)
    again = FakeGateway(name, started=200.0)
    again.attempt(times=3, bad="failed", key=2)
    again.compare(agreed=False)
    first = the_one(collect(ours, again))
    if name == "a":  # it was asked for what follows the keys of its former life
        assert (first.canary, first.gateways_reporting) == (NONE, 0)
        assert "left out bad keys" in ours.faults["a"]
        first = the_one(collect(ours, again))
    assert (first.canary, first.shadow_compared, ours.faults) == (VariantCounts(3, 1, repeated=2), 1, {})


def test_a_gateway_that_lost_counts_is_named_and_counted_from_there_on() -> None:
    ours, gateway = collector(), FakeGateway("a")
    gateway.attempt(times=5)
    gateway.attempt(bad="failed", key=1)
    collect(ours, gateway)
    gateway.ledger = Ledger(ROLLOUT, "v2", "v1")
    gateway.attempt(times=2)
    gateway.attempt(bad="failed", key=1)
    for _ in range(2):
        observed = the_one(collect(ours, gateway))
        assert (observed.canary, observed.gateways_reporting) == (NONE, 0)
        assert "less" in ours.faults["a"]
    gateway.attempt(bad="failed", key=2)
    gateway.attempt(bad="failed", key=1)
    observed = the_one(collect(ours, gateway))
    assert (observed.canary, observed.gateways_reporting, ours.faults) == (VariantCounts(2, 1, repeated=1), 1, {})


def test_a_key_that_was_bad_at_another_gateway_is_no_new_evidence() -> None:
    one, other, ours = FakeGateway("a"), FakeGateway("b"), collector()
    one.attempt(bad="failed", key=7)
    other.attempt(bad="slow", key=7)
    other.attempt(bad="invalid", key=8)
    assert the_one(collect(ours, one, other)).canary == VariantCounts(3, 2, 0, 1, repeated=1)
    other.attempt(canary=False, bad="invalid", key=9)
    one.attempt(canary=False, bad="invalid", key=9)
    assert the_one(collect(ours, one, other)).stable == VariantCounts(2, 1, 0, 1, repeated=1)


def test_counts_of_another_rollout_and_of_other_mirrors_are_not_counted() -> None:
    gateway, ours = FakeGateway("a"), collector()
    gateway.ledger = Ledger("digits-2", "v2", "v1")
    gateway.attempt()
    gateway.mirror = MirrorCounts("digits", "digits@v3", compared_requests=9, agreed_requests=9)
    observed = the_one(collect(ours, gateway))
    assert (observed.canary, observed.shadow_compared, observed.gateways_reporting) == (NONE, 0, 1)


def test_what_a_mirror_compared_before_the_rollout_says_nothing_of_it() -> None:
    old, new, ours = FakeGateway("a", started=100.0), FakeGateway("b", started=300.0), collector(since=200.0)
    old.compare(times=50)
    new.compare(times=3)
    assert the_one(collect(ours, old, new)).shadow_compared == 3
    old.compare(agreed=False)
    observed = the_one(collect(ours, old, new))
    assert (observed.shadow_compared, observed.shadow_agreed) == (1, 0)


def test_a_gateway_that_cannot_ask_the_canary_is_no_report() -> None:
    gateway, ours = FakeGateway("a"), collector()
    gateway.fault = "it isn't loaded in this gateway"
    assert the_one(collect(ours, gateway)).gateways_reporting == 0
    assert ours.faults == {"a": "it isn't loaded in this gateway"}


def test_what_needs_no_notice_is_logged_together_with_what_follows() -> None:
    gateway, ours = FakeGateway("a"), collector()
    collect(ours, gateway)
    gateway.attempt(times=3)
    assert [collect(ours, gateway, seconds=0.25) for _ in range(3)] == [[], [], []]
    gateway.attempt(canary=False)
    observed = the_one(collect(ours, gateway, seconds=0.25))
    assert (observed.seconds, observed.canary, observed.stable) == (1.0, VariantCounts(3), VariantCounts(1))
    gateway.attempt(times=2)
    assert collect(ours, gateway, seconds=0.25) == []
    before, after = collect(ours, gateway, seconds=0.25, weight=0.25)
    assert (before.observation.seconds, before.observation.weight) == (0.25, 0.05)
    assert before.observation.canary == VariantCounts(2)
    assert (after.observation.seconds, after.observation.weight) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("bad", "changed", "attempts", "since_s", "worth"),
    [
        (True, False, True, 0.0, True),
        (False, True, False, 0.0, True),
        (False, False, True, 0.9, False),
        (False, False, True, 1.0, True),
        (False, False, False, 4.9, False),
        (False, False, False, 5.0, True),
    ],
)
def test_when_it_is_logged(bad: bool, changed: bool, attempts: bool, since_s: float, worth: bool) -> None:
    assert worth_logging(bad=bad, changed=changed, attempts=attempts, since_s=since_s) is worth


def test_after_a_restart_nothing_is_counted_until_the_keys_that_are_counted_are_known_again() -> None:
    one, other = FakeGateway("a"), FakeGateway("b")
    one.attempt(bad="failed", key=7)
    [*_, last] = collect(collector(), one, other)
    other.attempt(bad="failed", key=7)
    again = collector(last.cursor)
    assert the_one(collect(again, other, gateways=2, seconds=0.25)).canary == NONE
    assert the_one(collect(again, one, other, seconds=0.25)).canary == VariantCounts(1, 0, repeated=1)


@pytest.mark.parametrize("logged", [0, 1, 2])
def test_a_restart_between_the_windows_of_one_moment_counts_each_of_them_once(logged: int) -> None:
    one, other, ours = FakeGateway("a"), FakeGateway("b"), collector()
    begun = collect(ours, one, other, weight=0.25)
    for gateway in (one, other):
        gateway.attempt(times=3, at=0.05, bad="failed", key=7)
        gateway.attempt(times=2, at=0.25, bad="failed", key=8)
    log = (begun + collect(ours, one, other, weight=0.25))[: 1 + logged]
    log += collect(collector(log[-1].cursor), one, other, weight=0.25)
    seen = {0.05: NONE, 0.25: NONE}
    for window in log:
        seen[window.observation.weight] = seen[window.observation.weight].plus(window.observation.canary)
    assert seen == {0.05: VariantCounts(6, 1, repeated=5), 0.25: VariantCounts(4, 1, repeated=3)}


def test_after_a_restart_a_gateway_that_stays_silent_is_not_waited_for_for_long() -> None:
    one, other = FakeGateway("a"), FakeGateway("b")
    one.attempt(bad="failed", key=7)
    [*_, last] = collect(collector(), one, other)
    other.attempt(bad="failed", key=8)
    again = collector(last.cursor)
    assert the_one(collect(again, other, gateways=2, seconds=MISSED_S / 2)).canary == NONE
    assert the_one(collect(again, other, gateways=2, seconds=MISSED_S / 2)).canary == VariantCounts(1, 1)


def test_gateways_that_are_gone_are_forgotten_in_the_end() -> None:
    ours = collector()
    cursor: tuple[GatewayCursor, ...] = ()
    for number in range(3 * SILENT_MAX):
        gateway = FakeGateway(f"g{number}")
        gateway.attempt()
        [*_, last] = collect(ours, gateway)
        assert last.observation.canary == VariantCounts(1)
        cursor = last.cursor
    assert len(cursor) == SILENT_MAX + 1


def test_a_cursor_goes_through_the_log_and_back() -> None:
    one, ours = FakeGateway("a"), collector()
    one.attempt(bad="failed", key=7)
    one.compare()
    [window] = collect(ours, one)
    entry = Entry(ROLLOUT, Observed(at=1.0, observation=window.observation, cursor=window.cursor))
    assert decode_entry(encode_entry(entry)) == entry


def test_an_observation_that_was_logged_before_there_were_cursors_can_still_be_read() -> None:
    raw = (
        b'{"rollout":"digits-1","event":{"event":"Observed","at":1.0,"observation":{"at":1.0,"seconds":1.0,'
        b'"weight":0.05,"canary":{"attempts":3,"bad":1},"stable":{"attempts":9}}}}'
    )
    observed = decode_entry(raw).event
    assert isinstance(observed, Observed)
    assert (observed.cursor, observed.observation.canary) == ((), VariantCounts(3, 1))


WEIGHTS = (0.05, 0.25, 0.5, 1.0)


@dataclass
class World:
    """Gateways and a collector, of which anything may be started anew, and a perfect observer of them all."""

    count: int
    graceful: bool
    weight: float = 0.05
    gateways: list[FakeGateway] = field(default_factory=list)
    log: list[Windowed] = field(default_factory=list)
    truth: Counter[tuple[float, bool, str]] = field(default_factory=Counter)
    gone: Counter[tuple[float, bool, str]] = field(default_factory=Counter)
    by_gateway: dict[str, Counter[Any]] = field(default_factory=dict)
    first_bad: set[int] = field(default_factory=set)
    unkeyed_bad: int = 0
    retired: set[int] = field(default_factory=set)
    keys_of: dict[str, set[int]] = field(default_factory=dict)
    started: float = 100.0
    since_restart: int = 99
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.ours = collector()
        for _ in range(self.count):
            self.start(f"g{len(self.gateways)}")

    def start(self, name: str) -> None:
        self.started += 1
        self.gateways.append(FakeGateway(name, self.started))
        self.by_gateway[name] = Counter()
        self.keys_of[name] = set()

    def attempt(self, index: int, place: int, canary: bool, bad: Kind | None, key: int | None) -> None:
        gateway = self.gateways[index % self.count]
        at = WEIGHTS[min(place, WEIGHTS.index(self.weight))]
        if key in self.retired:
            key = None
        gateway.attempt(canary=canary, bad=bad, key=key, at=at)
        said = ["attempts"] + (["bad"] if bad else [])
        for what in said:
            self.truth[at, canary, what] += 1
            self.by_gateway[gateway.name][at, canary, what] += 1
        if bad and key is None:
            self.unkeyed_bad += 1
        elif bad and key is not None:
            self.first_bad.add(key)
            self.keys_of[gateway.name].add(key)

    def compare(self, index: int, agreed: bool) -> None:
        gateway = self.gateways[index % self.count]
        gateway.compare(agreed=agreed)
        self.truth[0.0, agreed, "compared"] += 1
        self.by_gateway[gateway.name][0.0, agreed, "compared"] += 1

    def collect(self, lost: int = 0, *, dies_after: int | None = None, seconds: float = 0.25) -> None:
        """Some answers may be lost; the collector may die when it has logged so many windows of what it has got."""
        self.since_restart += 1
        if self.since_restart < 7:
            lost = 0 if dies_after is not None else lost
        asked = [gateway for place, gateway in enumerate(self.gateways) if not lost >> place & 1]
        windows = collect(self.ours, *asked, gateways=self.count, seconds=seconds, weight=self.weight)
        self.log += windows[:dies_after]
        self.seconds += seconds
        if dies_after is not None:
            self.restart()

    def restart(self) -> None:
        self.ours = collector(self.log[-1].cursor if self.log else ())
        self.since_restart = 0

    def replace(self, index: int, same_name: bool) -> None:
        """A gateway dies and another one takes its place, perhaps under its name."""
        if self.graceful:
            self.collect()
            self.collect(seconds=2 * IDLE_S)
        gateway = self.gateways.pop(index % self.count)
        self.retired |= self.keys_of[gateway.name]
        self.gone += self.by_gateway[gateway.name]
        self.start(gateway.name if same_name else f"s{self.started}")

    def step(self) -> None:
        self.weight = WEIGHTS[min(WEIGHTS.index(self.weight) + 1, len(WEIGHTS) - 1)]

    def observed(self) -> Counter[tuple[float, bool, str]]:
        seen: Counter[tuple[float, bool, str]] = Counter()
        for observation in (window.observation for window in self.log):
            for canary, counts in ((True, observation.canary), (False, observation.stable)):
                assert min(msgspec.structs.astuple(counts)) >= 0
                assert counts.slow + counts.invalid <= counts.bad
                seen[observation.weight, canary, "attempts"] += counts.attempts
                seen[observation.weight, canary, "bad"] += counts.bad + counts.repeated
            seen[0.0, True, "compared"] += observation.shadow_agreed
            seen[0.0, False, "compared"] += observation.shadow_compared - observation.shadow_agreed
        return +seen


KINDS: list[Kind | None] = [None, None, "failed", "slow", "invalid"]
ATTEMPTS = st.tuples(
    st.just("attempt"),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(KINDS),
    st.none() | st.integers(0, 3),
)
ACTIONS = st.one_of(
    ATTEMPTS,
    ATTEMPTS,
    ATTEMPTS,
    st.tuples(st.just("compare"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("collect"), st.integers(0, 7)),
    st.tuples(st.just("replace"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("step")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("dies"), st.integers(0, 2)),
)


def lived(actions: list[tuple[Any, ...]], *, count: int, graceful: bool) -> World:
    world = World(count, graceful)
    for name, *arguments in actions:
        if name == "dies":
            world.collect(dies_after=arguments[0])
        else:
            getattr(world, name)(*arguments)
        if world.since_restart >= 6 and world.since_restart < 99:
            world.collect()
            world.since_restart = 99
    world.collect()  # whoever was started anew under its old name is asked for all of its keys only after this
    world.collect(seconds=2 * IDLE_S)
    return world


@given(actions=st.lists(ACTIONS, max_size=80), count=st.integers(1, 3))
def test_whatever_is_lost_or_started_anew_the_sums_are_those_of_a_perfect_observer(
    actions: list[tuple[Any, ...]], count: int
) -> None:
    """Gateways end when they have told everything; the collector dies at any moment, and answers get lost."""
    world = lived(actions, count=count, graceful=True)
    assert world.observed() == +world.truth
    counts = [counts for window in world.log for counts in (window.observation.canary, window.observation.stable)]
    assert sum(one.bad for one in counts) == world.unkeyed_bad + len(world.first_bad)
    event(f"keys: {min(len(world.first_bad), 2)}, repeated: {any(one.repeated for one in counts)}")
    if not any(name in ("dies", "restart") for name, *_ in actions):
        assert sum(window.observation.seconds for window in world.log) == pytest.approx(world.seconds)


@given(actions=st.lists(ACTIONS, max_size=80), count=st.integers(1, 3))
def test_of_gateways_that_die_untold_nothing_counts_twice_and_of_the_others_everything_once(
    actions: list[tuple[Any, ...]], count: int
) -> None:
    world = lived(actions, count=count, graceful=False)
    seen = world.observed()
    assert seen <= world.truth
    assert world.truth - world.gone <= seen
