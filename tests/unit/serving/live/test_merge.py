"""Several gateways as one: counts are sums, states the worst, and what exists once comes from the newest table."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from serving.live import merge
from serving.live.heard import Heard, StatusHeard
from serving.live.series import SeriesPage
from serving.live.snapshot import ModelView, VersionView

TIME = 1000.0


def breaker(
    state: str = "closed", *, since: float = 1.0, why: str = "", opened: int = 0, retry_after_s: float = 0.0
) -> dict[str, Any]:
    return {"state": state, "since": since, "why": why, "opened": opened, "retry_after_s": retry_after_s}


def version(**changes: Any) -> dict[str, Any]:
    well = {"digest": "sha256:1", "ready": True, "breaker": breaker(), "attempts": {"ok": 10}, "waiting": 1}
    return (
        well
        | {
            "inflight_batches": 2,
            "replicas": [{"id": "r1", "live": True, "outstanding": 1, "pid": 7, "ip": "10.0.0.2"}],
        }
        | changes
    )


def model(**changes: Any) -> dict[str, Any]:
    well = {"stable": "v2", "versions": {"v1": version(), "v2": version()}, "canary": None}
    return well | {"admission": {"limit": 10, "inflight": 2, "waiting": {"1": 1, "2": 3}}} | changes


def heard(port: int, models: dict[str, Any], *, generation: int = 7, accepting: bool = True, **more: Any) -> Heard:
    document = {
        "gateway": {"pid": port, "time": TIME, "accepting": accepting, "ready": True, "routing_table": generation},
        "models": models,
        **more,
    }
    return Heard(port, msgspec.convert(document, StatusHeard), SeriesPage(gateway=str(port), since=0, until=0))


def one(*told: Heard) -> ModelView:
    [found] = merge.models(told)
    return found


def by_name(found: ModelView) -> dict[str, VersionView]:
    return {each.version: each for each in found.versions}


def test_gateways_are_counted_and_told_by_port() -> None:
    found = merge.gateways([heard(8102, {}, accepting=False), heard(8101, {}, generation=8)], expected=3)
    assert (found.seen, found.expected, found.accepting) == (2, 3, 1)
    assert (found.ports, found.generations) == ((8101, 8102), (8, 7))


def test_of_no_gateway_there_is_nothing_to_tell() -> None:
    assert merge.models([]) == ()
    assert merge.gateways([], expected=2).seen == 0


def test_admission_attempts_and_queues_are_sums() -> None:
    found = one(heard(1, {"m": model()}), heard(2, {"m": model()}))
    assert msgspec.to_builtins(found.admission) == {"limit": 20, "inflight": 4, "waiting": 8}
    v2 = by_name(found)["v2"]
    assert (v2.attempts, v2.waiting, v2.inflight_batches) == ({"ok": 20}, 2, 4)


def test_a_breaker_that_is_open_anywhere_is_told_with_its_reason_and_where() -> None:
    bad = version(breaker=breaker("open", since=990.0, why="12 of 20 calls failed", opened=2, retry_after_s=1.5))
    half = version(breaker=breaker("half_open", since=995.0, why="probes decide", opened=1))
    found = one(
        heard(1, {"m": model()}),
        heard(2, {"m": model(versions={"v2": bad})}),
        heard(3, {"m": model(versions={"v2": half})}),
    )
    told = by_name(found)["v2"].breaker
    assert (told.state, told.why, told.since, told.retry_at, told.opened) == (
        *("open", "12 of 20 calls failed", 990.0, 1001.5),
        3,
    )
    assert told.gateways == {"1": "closed", "2": "open", "3": "half-open"}
    assert by_name(found)["v1"].breaker.state == "closed"


def test_a_version_is_ready_if_it_is_in_every_gateway_that_has_it() -> None:
    found = one(heard(1, {"m": model()}), heard(2, {"m": model(versions={"v2": version(ready=False)})}))
    assert (by_name(found)["v1"].ready, by_name(found)["v2"].ready) == (True, False)


def test_a_replica_is_told_once_and_its_ejection_by_any_gateway_counts() -> None:
    out = [{"id": "r1", "live": False, "outstanding": 2, "ejected": True, "why": "9 of 12 were bad"}]
    found = one(heard(1, {"m": model()}), heard(2, {"m": model(versions={"v2": version(replicas=out)})}))
    [replica] = by_name(found)["v2"].replicas
    assert (replica.live, replica.ejected, replica.why) == (True, True, "9 of 12 were bad")
    assert (replica.outstanding, replica.pid, replica.ip) == (3, 7, "10.0.0.2")


def test_the_canary_gets_what_gateways_give_it_and_the_stable_version_the_rest() -> None:
    three = {"v1": version(), "v2": version(), "v3": version()}
    canary = {"version": "v3", "weight": 0.25, "ended": False}
    small = canary | {"weight": 0.05}
    found = by_name(
        one(heard(1, {"m": model(versions=three, canary=canary)}), heard(2, {"m": model(versions=three, canary=small)}))
    )
    assert [(name, each.role, each.weight) for name, each in found.items()] == [
        ("v1", "standby", 0.0),
        ("v2", "stable", 0.85),
        ("v3", "canary", 0.15),
    ]


def test_a_canary_that_has_ended_stands_by() -> None:
    ended = {"version": "v1", "weight": 0.0, "ended": True}
    assert by_name(one(heard(1, {"m": model(canary=ended)})))["v1"].role == "standby"


def test_what_the_newest_table_says_counts() -> None:
    old = heard(1, {"m": model(stable="v1")}, generation=6, unavailable={"m@v9": "old news"})
    new = heard(2, {"m": model()}, generation=7, unavailable={"m@v3": "wrong digest"})
    found = one(old, new)
    assert found.stable == "v2"
    assert [(each.version, each.role, each.reason) for each in found.versions] == [
        ("v1", "standby", ""),
        ("v2", "stable", ""),
        ("v3", "unavailable", "wrong digest"),
    ]


def test_a_model_of_which_nothing_is_served_is_told_too() -> None:
    found = one(heard(1, {}, unavailable={"m@v10": "no", "m@v9": "no"}))
    assert (found.name, found.stable, [each.version for each in found.versions]) == ("m", None, ["v9", "v10"])


def test_a_version_that_is_being_brought_up_is_told_unless_it_is_there() -> None:
    found = one(heard(1, {"m": model()}, coming=["m@v2", "m@v3"]))
    assert [(each.version, each.role, each.reason) for each in found.versions if each.reason] == [
        ("v3", "unavailable", merge.COMING)
    ]


def test_fallbacks_and_shadows_add_up_in_their_order() -> None:
    chain = [
        {"type": "version", "name": "v1", "answered": 2, "unusable": 1},
        {"type": "cache", "name": "cache", "answered": 0, "unusable": 3},
    ]
    shadow = {
        "shadow": "s@v1",
        "share": 0.1,
        "silent": False,
        "compared_requests": 5,
        "agreed_requests": 4,
        "dropped": {"busy": 2},
    }
    mute = shadow | {"silent": True, "share": 0.0}
    found = one(
        heard(1, {"m": model(fallback=chain, shadows=[shadow])}), heard(2, {"m": model(fallback=chain, shadows=[mute])})
    )
    assert [(each.type, each.answered, each.unusable) for each in found.fallbacks] == [
        ("version", 4, 2),
        ("cache", 0, 6),
    ]
    [told] = found.shadows
    assert (told.name, told.share, told.compared, told.agreed, told.silent, told.dropped) == (
        "s@v1",
        0.1,
        10,
        8,
        True,
        4,
    )


STATES = st.sampled_from(["closed", "open", "half_open"])
VERSIONS = st.fixed_dictionaries(
    {
        "ready": st.booleans(),
        "breaker": st.builds(breaker, STATES, since=st.integers(1, 9).map(float), opened=st.integers(0, 3)),
        "waiting": st.integers(0, 9),
    }
).map(lambda changes: version(**changes))
MODELS = st.dictionaries(st.sampled_from(["v1", "v2"]), VERSIONS, min_size=1).map(lambda found: model(versions=found))


@given(st.lists(MODELS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_in_which_gateways_answer_changes_nothing(models: list[dict[str, Any]], chance: Any) -> None:
    told = [heard(8100 + number, {"m": each}) for number, each in enumerate(models)]
    shuffled = list(told)
    chance.shuffle(shuffled)
    assert merge.models(told) == merge.models(shuffled)
    for each in one(*told).versions:
        having = [found["versions"][each.version] for found in models if each.version in found["versions"]]
        assert each.waiting == sum(found["waiting"] for found in having)
        assert each.breaker.opened == sum(found["breaker"]["opened"] for found in having)
        assert each.ready == all(found["ready"] for found in having)
