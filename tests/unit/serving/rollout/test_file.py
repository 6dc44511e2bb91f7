"""A rollout file is read as it is meant, or refused with the line and the key of every mistake."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rollout.file import RolloutFileError, lint_rollout, parse_rollout
from serving.rollout.spec import PauseFor, RolloutSpec, Step, seconds
from tests.rollouts import ROLLOUT_YAML

LEAST = "model: digits\nversion: v2\nsteps:\n  - {setWeight: 100}\n"


def refused(text: str) -> RolloutFileError:
    with pytest.raises(RolloutFileError) as caught:
        parse_rollout(text)
    return caught.value


def changed(before: str, after: str) -> str:
    assert before in ROLLOUT_YAML
    return ROLLOUT_YAML.replace(before, after, 1)


def test_a_file_becomes_a_spec_with_the_same_words() -> None:
    spec = parse_rollout(ROLLOUT_YAML)
    assert str(spec) == "digits@v2"
    assert spec.from_ == "v1"
    assert spec.steps[:2] == (Step(set_weight=5), Step(pause=PauseFor(duration="60s")))
    assert spec.steps[3] == Step(pause=PauseFor())
    assert spec.analysis.slo.burn_rates[0].factor == 14.4
    assert spec.bake.duration == "2m"


def test_a_file_needs_no_more_than_a_model_a_version_and_steps() -> None:
    spec = parse_rollout(LEAST)
    assert spec.from_ is None
    assert (spec.analysis.alpha, spec.analysis.min_attempts, spec.on_breach) == (0.01, 100, "rollback")
    assert (spec.progress_deadline, spec.bake.duration, spec.stickiness) == ("10m", "10m", "key")


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("1h", 3600.0)])
def test_durations_carry_their_unit(text: str, value: float) -> None:
    assert seconds(text) == value
    assert parse_rollout(f"{LEAST}bake: {{duration: {text}}}\n").bake.duration == text


def test_a_spec_survives_the_event_log_exactly() -> None:
    spec = parse_rollout(ROLLOUT_YAML)
    raw = msgspec.json.encode(spec)
    assert b'"setWeight":5' in raw
    assert msgspec.json.decode(raw, type=RolloutSpec) == spec


SHADOWED = f"{LEAST}analysis:\n  shadow: {{agreement: 0.99}}\n"


def test_a_shadow_is_never_compared_if_the_first_weight_is_all() -> None:
    assert parse_rollout(SHADOWED.replace("  - {", "  - {setWeight: 99}\n  - {")).analysis.shadow is not None
    several = [str(fault).partition(": needs")[0] for fault in refused(f"{SHADOWED}  alpha: 2\n").faults]
    assert several == ["line 6: analysis.shadow", "line 7: analysis.alpha: 2 isn't allowed; it must be <= 0.5"]


def test_but_such_a_spec_in_an_old_event_log_can_be_read() -> None:
    raw = b'{"model":"digits","version":"v2","steps":[{"setWeight":100}],"analysis":{"shadow":{"agreement":0.99}}}'
    assert msgspec.json.decode(raw, type=RolloutSpec).analysis.shadow is not None


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (f"{LEAST}onBreech: pause\n", 5, "onBreech", "unknown key"),
        (SHADOWED, 6, "analysis.shadow", "needs a weight under 100 first"),
        (changed("minAttempts", "minAttempt"), 12, "analysis.minAttempt", "known here: alpha, minAttempts"),
        (changed("version: v2\n", ""), 1, "version", "missing"),
        (changed("setWeight: 25", "setWeight: 4"), 7, "steps[2]", "setWeight 4 isn't more than 5 before it"),
        (changed("setWeight: 25", "setWeight: 5"), 7, "steps[2]", "weights only go up"),
        (changed("setWeight: 100", "setWeight: 50"), 9, "steps[4]", "end the steps with `- {setWeight: 100}`"),
        (changed("setWeight: 100", "setWeight: 101"), 9, "steps[4].setWeight", "must be <= 100"),
        (changed("setWeight: 5}", "setWeight: 0}"), 5, "steps[0].setWeight", "must be >= 1"),
        (changed("setWeight: 25", "setWeight: 25.5"), 7, "steps[2].setWeight", "must be a whole number"),
        (changed("{setWeight: 25}", "{setWeight: 25, pause: {}}"), 7, "steps[2]", "either setWeight or pause"),
        (changed("{pause: {}}", "{pause: }"), 8, "steps[3]", "`pause: {}`"),
        (changed("{pause: {}}", "halt"), 8, "steps[3]", "must be keys, but 'halt' is text"),
        (changed("  - {setWeight: 5}\n", ""), 5, "steps[0]", "the first step must be a setWeight"),
        (changed("alpha: 0.01", "alpha: 2"), 11, "analysis.alpha", "2 isn't allowed; it must be <= 0.5"),
        (changed("alpha: 0.01", "alpha: 0"), 11, "analysis.alpha", "must be > 0"),
        (changed("alpha: 0.01", "alpha: .nan"), 11, "analysis.alpha", "isn't allowed"),
        (changed("alpha: 0.01", "alpha: 1e-2"), 11, "analysis.alpha", "must be a number, but '1e-2' is text"),
        (changed("alpha: 0.01", "alpha: yes"), 11, "analysis.alpha", "'yes' is true or false"),
        (changed("duration: 60s", "duration: 60"), 6, "steps[1].pause.duration", "'60' is no duration; write 500ms"),
        (changed("duration: 60s", "duration: a while"), 6, "steps[1].pause.duration", "30s, 5m or 1h"),
        (changed("duration: 60s", "duration: 0s"), 6, "steps[1].pause.duration", "no duration"),
        (changed("duration: 60s", 'duration: "60s\\n"'), 6, "steps[1].pause.duration", "more than one line"),
        (changed("version: v2", "version: 2"), 2, "version", "put it in quotes: '2'"),
        (changed("version: v2", "version: V2"), 2, "version", "'V2' is no name"),
        (changed("version: v2", "version: v1"), 3, "from", "'v1' is the canary itself"),
        (changed("version: v2", "version: v2\nversion: v3"), 3, "version", "stands there twice"),
        (changed("short: 30s", "short: 5m"), 14, "analysis.slo.burnRates[0].short", "must be shorter than long"),
        (changed("factor: 14.4", "factor: 100"), 14, "analysis.slo.burnRates[0].factor", "can't be reached"),
        (changed("[{long: 5m, short: 30s, factor: 14.4}]", "[]"), 14, "analysis.slo.burnRates", "at least one entry"),
        (changed("bake: {duration: 2m}", "bake: 2m"), 17, "bake", "must be keys, but '2m' is text"),
        (f"{LEAST}onBreach: explode\n", 5, "onBreach", "'explode' isn't one of rollback, pause"),
        ("model: digits\nversion: v2\nsteps: []\n", 3, "steps", "at least one entry"),
        (changed("steps:", "steps: [{setWeight: 5}"), 5, "", "no YAML"),
        (f"{LEAST}from: &a v1\nonBreach: *a\n", 6, "", "*a: write it out"),
        (f"{LEAST}from: !!python/name:os.system x\n", 5, "from", "can't be read"),
        (f"{LEAST}from: !!int ''\n", 5, "from", "that: it isn't what its tag says"),
        (f"{LEAST}from: !!float ''\n", 5, "from", "that: it isn't what its tag says"),
        (f"{LEAST}from: !!bool maybe\n", 5, "from", "'maybe': it isn't what its tag says"),
        (f"{LEAST}from: !!timestamp today\n", 5, "from", "'today': it isn't what its tag says"),
        (f"{LEAST}onBreach: [!!int +]\n", 5, "onBreach", "isn't one of"),
        (f"{LEAST}<<: {{from: v1}}\n", 5, "<<", "unknown key"),
        (f"{LEAST}---\n{LEAST}", 5, "", "no YAML"),
        (f"{LEAST}from: a\x00b\n", 5, "", "no YAML"),
        ("- model: digits\n", 1, "", "must be keys"),
        ("", 1, "", "the file is empty"),
        ("# nothing yet\n", 1, "", "the file is empty"),
        (f"{LEAST}{'#' * 70_000}", 1, "", "longer than 16384 characters"),
        ("[" * 10_000, 1, "", "nested too deeply"),
    ],
)
def test_a_mistake_is_refused_with_its_line_and_key(text: str, line: int, key: str, said: str) -> None:
    error = refused(text)
    assert (error.line, error.key) == (line, key), str(error)
    assert said in str(error)
    assert str(error).startswith(f"line {line}: {key}: " if key else f"line {line}: ")


def test_lint_tells_all_mistakes_at_once_in_the_order_of_their_lines() -> None:
    text = changed("alpha: 0.01", "alpha: 2").replace("setWeight: 25", "setWeight: 3").replace("from: v1", "form: v1")
    faults = lint_rollout(text)
    assert [fault.split(": ")[1] for fault in faults] == ["form", "steps[2]", "analysis.alpha"]
    assert "and 2 more: `holdfast rollout lint` lists them" in str(refused(text))


def test_a_key_that_stands_there_twice_and_is_wrong_is_told_both_ways() -> None:
    faults = lint_rollout(f"{LEAST}onBreach: maybe\nonBreach: pause\n")
    assert [fault.split(": ")[0] for fault in faults] == ["line 5", "line 6"]


def test_lint_has_nothing_to_say_about_a_good_file() -> None:
    assert lint_rollout(ROLLOUT_YAML) == []


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    faults = lint_rollout(text)
    assert faults
    assert all(fault.startswith("line ") for fault in faults)


@given(st.data())
def test_no_changed_line_breaks_the_reader(data: st.DataObject) -> None:
    lines = ROLLOUT_YAML.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    indent = " " * (len(lines[number]) - len(lines[number].lstrip()))
    lines[number] = indent + data.draw(st.text(st.sampled_from("abz:-{}[]&*!|>'\"%#,.0159 ~\n\t"), max_size=30))
    text = "\n".join(lines)
    if not lint_rollout(text):
        parse_rollout(text)
