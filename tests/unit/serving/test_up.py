"""What a start waits for: the versions that rollouts have left, and not those that they have replaced."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from models.manifest import ModelVersion
from serving import up
from serving.cluster import StartError
from serving.model_settings import ModelSettings
from serving.rollout.desired import DesiredState
from serving.rollout.report import ControllerReport, overview
from serving.rollout.state import RolloutState
from serving.rollout.versions import UNLOADED
from serving.settings import Settings
from serving.up import after_rollouts, nothing_left
from tests.rollouts import at_first_weight, baking, settled, shut_out

V1, V2, V3 = (ModelVersion("digits", version) for version in ("v1", "v2", "v3"))
OTHER = ModelVersion("other", "v1")


def expected(
    state: RolloutState, *versions: str, stable: str | None = None, marked: tuple[str, ...] = ()
) -> list[ModelVersion]:
    """Of a model with these ``versions`` in the settings, in none if there are none."""
    models = (ModelSettings(name="digits", versions=versions, stable=stable),) if versions else ()
    wanted = [OTHER, *(ModelVersion("digits", version) for version in versions or ("v2",))]
    desired = DesiredState(rollouts={"digits": state}, rolled_back=dict.fromkeys(marked, "bad"))
    return after_rollouts(Settings(models=models), wanted, overview(desired, ControllerReport("writing")))


def test_the_version_that_has_won_is_waited_for_and_not_the_one_it_has_replaced() -> None:
    assert expected(settled().state, "v1") == [OTHER, V2]


def test_one_that_the_settings_want_beside_it_is_waited_for_as_well() -> None:
    assert expected(settled().state, "v1", "v2", stable="v2") == [OTHER, V1, V2]


def test_the_version_that_was_taken_back_gives_way_and_people_are_told_of_it() -> None:
    assert expected(shut_out().state, "v2", marked=("digits@v2",)) == [OTHER, V2, V1]


def test_without_settings_for_models_the_prior_version_counts_until_the_canary_has_won() -> None:
    assert expected(settled().state) == [OTHER, V2]
    assert expected(at_first_weight().state) == [OTHER, V1]


@pytest.mark.parametrize("state", [at_first_weight().state, baking().state])
def test_while_a_rollout_goes_on_the_prior_version_answers(state: RolloutState) -> None:
    assert expected(state, "v1") == [OTHER, V1]


def test_a_stable_version_that_the_rollout_knew_nothing_of_counts_for_more() -> None:
    assert expected(settled().state, "v3") == [OTHER, V3]


def test_a_store_that_cant_be_listed_is_named(tmp_path: Path) -> None:
    store = tmp_path / ("x" * 300)  # nobody may look there, not even root
    models = (ModelSettings(name="digits", versions=("v1",)),)
    for settings in (Settings(store=str(store)), Settings(store=str(store), models=models)):
        with pytest.raises(StartError, match=rf"^store: {store}: File name too long$"):
            up._wanted(settings)


def test_a_model_that_is_not_wanted_is_not_waited_for() -> None:
    desired = DesiredState(rollouts={"digits": settled().state})
    assert after_rollouts(Settings(), [OTHER], overview(desired, ControllerReport("writing"))) == [OTHER]


ONE, TWO = ModelVersion("m", "v1"), ModelVersion("m", "v2")


def index(**reasons: str) -> list[dict[str, str]]:
    return [
        {"name": "m", "version": version, "state": "UNAVAILABLE" if reason else "READY", "reason": reason}
        for version, reason in reasons.items()
    ]


def test_what_people_unload_while_it_starts_is_no_failure() -> None:
    assert nothing_left(index(v1=UNLOADED, v2=UNLOADED), [ONE, TWO])
    assert not nothing_left(index(v1=UNLOADED, v2=""), [ONE, TWO])
    assert not nothing_left(index(v1="not loaded", v2=UNLOADED), [ONE, TWO])
    assert not nothing_left([], [ONE])


def test_if_all_has_failed_the_reasons_are_told() -> None:
    with pytest.raises(StartError, match="m@v1: it is rotten; m@v2: unloaded on request"):
        nothing_left(index(v1="it is rotten", v2=UNLOADED), [ONE, TWO])


def test_a_reason_is_no_failure_while_nobody_can_say_what_rollouts_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway may tell that v1 is replaced a moment before anybody can be asked by which rollout."""
    asked: list[str] = []

    def ask(_settings: Settings, _method: str, path: str, _body: str | None = None) -> Any:
        asked.append(path)
        if path.endswith("/index"):
            return index(v1="replaced by v2")
        return None

    stopped = threading.Event()
    monkeypatch.setattr(up, "_ask", ask)
    monkeypatch.setattr(up, "POLL_S", 0.001)
    monkeypatch.setattr(up, "_predict", lambda *_: stopped.set() if len(asked) > 20 else None)
    assert not up._await_first_answer(Settings(), [ONE], lambda _: None, stopped, lambda: None)  # type: ignore[arg-type]
