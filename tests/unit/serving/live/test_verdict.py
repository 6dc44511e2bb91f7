"""Is it fine, and if not, what is wrong: whoever is woken at night reads one line and knows where to look."""

from __future__ import annotations

import msgspec
import pytest

from serving.live.snapshot import BreakerView, Gateways, ModelView, ShadowUse, Verdict
from serving.live.verdict import judge, on_purpose
from serving.rollout.report import ControllerReport
from serving.rollout.versions import UNLOADED, replaced_because, rolled_back_because
from tests.snapshots import NOW, calm, canary, model, outage, snapshot, taken_back, version


def reasons(*models: ModelView, **changes: object) -> tuple[str, ...]:
    return judge(snapshot(*models, **changes)).reasons


def test_calm_is_fine_and_so_is_a_canary_and_one_that_was_taken_back() -> None:
    for each in (calm(), canary(), taken_back()):
        assert judge(each) == Verdict()


def test_an_outage_is_told_the_gravest_first() -> None:
    verdict = judge(outage())
    assert verdict.state == "bad"
    assert verdict.reasons == (
        "orientation: no version is served (v2: model.onnx: wrong digest)",
        "digits: 12 % of the requests get an error (mostly no_answer)",
        "digits: 16 % of the requests are shed (12 of 12 places taken, 31 wait)",
        "digits: 64 % of the answers are degraded (mostly circuit_open)",
        "digits@v2: breaker open in 1 of 1 gateways (12 of 20 calls failed within 10 s)",
        "1 of 2 gateways is missing",
        "the control plane is silent (no answer within 0.5 s): nothing can be changed, rollouts stand still",
        "digits@v2: 1 of 2 replicas is left out (9 of 12 calls were bad)",
        "digits@v2: 1 of 2 replicas can't be reached",
        "digits: the shadow digits-lite@v1 answers nothing",
    )


@pytest.mark.parametrize(("errors", "state"), [(0.1, "fine"), (0.3, "degraded"), (20.0, "bad")])
def test_a_few_errors_degrade_and_many_are_bad(errors: float, state: str) -> None:
    assert judge(snapshot(model(rate=150.0, errors=errors))).state == state


def test_what_callers_got_wrong_is_not_the_systems_trouble() -> None:
    assert judge(snapshot(model(rate=10.0, ok=0.0, other=10.0))).state == "fine"


def test_a_breaker_says_where_and_why() -> None:
    open_ = BreakerView(state="open", gateways={"1": "open", "2": "closed"}, why="12 of 20 calls failed", since=NOW)
    told = reasons(model(versions=(version("v2", breaker=open_),)))
    assert told == ("digits@v2: breaker open in 1 of 2 gateways (12 of 20 calls failed)",)


def test_no_gateway_that_accepts_is_the_gravest_of_all() -> None:
    none = Gateways(seen=1, expected=2, accepting=0, ports=(1,), generations=(0,))
    verdict = judge(msgspec.structs.replace(outage(), gateways=none))
    assert (verdict.state, verdict.reasons[0]) == ("bad", "no gateway accepts requests (1 of 2 answer)")


def test_a_stable_version_without_replicas_is_bad_unless_something_stands_in() -> None:
    dead = (version("v2", ready=False, replicas=()),)
    assert judge(snapshot(model(versions=dead, fallbacks=()))).state == "bad"
    assert judge(snapshot(model(versions=dead))).state == "degraded"
    assert reasons(model(versions=dead)) == ("digits@v2: none of its 0 replicas can take work",)


def test_a_shadow_that_answers_nothing_and_a_version_that_cannot_be_loaded_are_told() -> None:
    lost = version("v3", role="unavailable", weight=0.0, ready=False, replicas=(), reason="it gave 7 where 8 is right")
    told = reasons(model(versions=(version("v2"), lost), shadows=(ShadowUse("s@v1", 0.1, silent=True),)))
    assert told == ("digits@v3 isn't served: it gave 7 where 8 is right", "digits: the shadow s@v1 answers nothing")


@pytest.mark.parametrize(
    "reason",
    ["", UNLOADED, replaced_because("v3"), rolled_back_because("bad"), "ended with digits-3", "digits-3 was aborted"],
)
def test_what_was_meant_to_go_is_no_trouble(reason: str) -> None:
    assert on_purpose(reason)
    gone = version("v1", role="unavailable", weight=0.0, ready=False, replicas=(), reason=reason)
    assert reasons(model(versions=(gone, version("v2")))) == ()


@pytest.mark.parametrize("state", ["standby", "log_unavailable", "log_corrupt"])
def test_a_controller_that_cannot_write_is_told(state: str) -> None:
    assert reasons(model(), controller=ControllerReport(state, "disk full")) == (
        f"the rollout controller is {state} (disk full): rollouts stand still",
    )


def test_shares_are_never_rounded_to_nothing_or_to_all() -> None:
    assert "0.32 % of the requests" in reasons(model(rate=150.0, errors=0.48))[0]
    assert "over 99 % of the requests" in reasons(model(rate=150.0, errors=149.5))[0]
    assert "100 % of the requests" in reasons(model(rate=150.0, errors=150.0))[0]
