"""Logs that were written once come out again: every decision byte for byte, and the state that they come to.

If one of these fails, a change decides otherwise about what has happened already, and a Holdfast that is updated in the
midst of a rollout goes another way than its log. Recording a log again is no way to mend that: what is new has to hold
for later rollouts only (``rules`` of ``Start``, docs/adr/0029). Logs of those are recorded beside these:
``python -m tests.replay.record FOLDER``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from serving.rollout import analysis, apply, history
from serving.rollout.decide import decide
from serving.rollout.desired import decode_entry
from serving.rollout.event_log import LogCorrupt, LogError
from serving.rollout.events import Decision, RollBackNow
from serving.rollout.evidence import relative
from serving.rollout.history import ROLLOUT_KIND, replayed
from serving.rollout.state import RolloutState
from tests.replay.record import RECORDINGS
from tests.replay.recorded import LOGS, from_text, state_of, to_text

FILES = sorted(LOGS.glob("*/*.jsonl"))
FOLDERS = sorted(folder for folder in LOGS.iterdir() if folder.is_dir())


def named(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def text_of(name: str) -> bytes:
    return (LOGS / f"{name}.jsonl").read_bytes()


@pytest.mark.parametrize("file", FILES, ids=named)
def test_every_decision_comes_out_again_byte_for_byte(file: Path) -> None:
    again = replayed(from_text(file.read_bytes()))
    assert again.first is None
    assert again.mismatches == 0
    assert again.decisions >= 3 or again.began_after


@pytest.mark.parametrize("file", FILES, ids=named)
def test_it_comes_to_the_state_that_it_came_to(file: Path) -> None:
    again = replayed(from_text(file.read_bytes()))
    assert again.desired == state_of(file.with_suffix(".state.json").read_bytes())


@pytest.mark.parametrize("file", FILES, ids=named)
def test_the_text_has_all_of_the_log(file: Path) -> None:
    text = file.read_bytes()
    assert to_text(from_text(text)) == text


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_ending_was_recorded(folder: Path) -> None:
    assert {file.stem for file in folder.glob("*.jsonl")} >= RECORDINGS.keys()
    reasons = {
        file.stem: next(iter(replayed(from_text(file.read_bytes())).desired.rollouts.values())).reason
        for file in folder.glob("*.jsonl")
    }
    assert "has replaced v1" in reasons["succeeded"]
    assert "has replaced v1" in reasons["succeeded-compacted"]
    assert "bad first attempts were the canary's" in reasons["evidence"]
    assert "bad first attempts were the canary's" in reasons["slow"]
    assert "invalid answer" in reasons["validity"]
    assert "golden example 2" in reasons["golden-test"]
    assert "wasn't ready within 20s" in reasons["never-ready"]
    assert "crashes again and again" in reasons["crashes"]
    assert "the budget burns" in reasons["burn-rate"]
    assert "the budget burns" in reasons["bad-in-the-bake"]
    assert "aborted by anna" in reasons["aborted"]
    assert "after 20s at 5 % it still needed" in text_of(f"{folder.name}/outage-until-the-deadline").decode()


@pytest.mark.parametrize(("rules", "rate"), [(1, "16.9"), (2, "19.2")])
def test_a_rollout_is_judged_by_the_rules_that_it_began_with(rules: int, rate: str) -> None:
    """The same canary: by rules 1 the first ten bad attempts are enough, by rules 2 it has to be more than chance."""
    state = replayed(from_text(text_of(f"rules-{rules}/burn-rate"))).desired.rollouts["digits"]
    assert state.rules == rules
    assert f"the budget burns at {rate} times its rate" in state.reason


def test_rules_of_later_are_not_guessed_at() -> None:
    raw = next(event.payload for event in from_text(text_of("rules-2/evidence")).read() if event.kind == ROLLOUT_KIND)
    assert b'"rules":2' in raw
    with pytest.raises(ValueError, match="rules"):
        decode_entry(raw.replace(b'"rules":2', b'"rules":3'))


def test_one_begins_with_a_snapshot() -> None:
    assert replayed(from_text(text_of("rules-1/succeeded-compacted"))).began_after > 10


# --- these tests can fail


def reworded(state: RolloutState) -> tuple[Decision, ...]:
    return tuple(
        msgspec.structs.replace(one, reason=f"{one.reason}.") if isinstance(one, RollBackNow) else one
        for one in decide(state)
    )


def later(state: RolloutState) -> tuple[Decision, ...]:
    """A decision that waits for a window more."""
    return () if state.evidence.here.attempts < 100 else decide(state)


@pytest.mark.parametrize("changed", [reworded, later])
def test_a_decision_that_is_taken_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, changed: Callable[[RolloutState], tuple[Decision, ...]]
) -> None:
    monkeypatch.setattr(history, "decide", changed)
    assert replayed(from_text(text_of("rules-1/evidence"))).mismatches > 0


@pytest.mark.parametrize(
    ("module", "name", "changed"),
    [
        (analysis, "relative", lambda process, alpha: relative(process, alpha / 10)),
        (apply, "UNWATCHED_MAX_S", 0.1),
    ],
    ids=["evidence that wants more", "time that passes otherwise"],
)
def test_what_is_folded_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, changed: object
) -> None:
    monkeypatch.setattr(module, name, changed)
    differing = 0
    for file in FILES:
        try:
            again = replayed(from_text(file.read_bytes()))
        except LogError:
            differing += 1
        else:
            state = state_of(file.with_suffix(".state.json").read_bytes())
            differing += again.mismatches > 0 or again.desired != state
    assert differing


def test_a_line_that_was_edited_is_noticed() -> None:
    text = text_of("rules-1/evidence")
    edited = text.replace(b'"bad":1', b'"bad":0', 1)
    assert edited != text
    with pytest.raises(LogCorrupt, match="its hash isn't that of its fields"):
        replayed(from_text(edited))


def test_a_line_that_is_missing_is_noticed() -> None:
    lines = text_of("rules-1/evidence").splitlines(keepends=True)
    with pytest.raises(LogCorrupt, match="missing"):
        replayed(from_text(b"".join(lines[:7] + lines[8:])))


def test_all_kinds_of_decisions_are_in_some_log() -> None:
    seen = {
        type(entry.event)
        for file in FILES
        for event in from_text(file.read_bytes()).read()
        if event.kind == ROLLOUT_KIND and isinstance((entry := decode_entry(event.payload)).event, Decision)
    }
    assert seen == set(get_args(Decision))
