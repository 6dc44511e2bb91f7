"""YAML is plain data, or is refused with its line and key."""

from __future__ import annotations

import contextlib
import datetime as dt

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.plain_yaml import NotPlain, read_yaml


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("a: 5\nb: '5'\nc: [1.5, yes, ~]", {"a": 5, "b": "5", "c": [1.5, True, None]}),
        (
            "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: *x",
            {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2}},
        ),
        ("5: a\n'5': b", {5: "a", "5": "b"}),
        ("a: 2024-12-31", {"a": dt.date(2024, 12, 31)}),
    ],
)
def test_what_yaml_says_is_what_comes_out(text: str, data: object) -> None:
    assert read_yaml(text) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  - c: 1\n    c: 2", "line 4: b[0].c: stands there twice"),
        ("a: 1\na: 1", "line 2: a: stands there twice"),
        ("a: [x, 2024-13-45]", "line 1: a[1]: '2024-13-45': month must be in 1..12"),
        ("2024-13-45: a", "line 1: 2024-13-45: '2024-13-45': month must be in 1..12"),
        ("!!int ''", "line 1: '': it isn't what its tag says"),
        ("a: !!bool maybe", "line 1: a: 'maybe': it isn't what its tag says"),
        ("a: !!timestamp today", "line 1: a: 'today': it isn't what its tag says"),
        ("a: " + 3000 * "[", "nested too deeply"),
    ],
)
def test_what_nobody_can_have_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(NotPlain) as caught:
        read_yaml(text)
    assert str(caught.value) == said


@given(st.text(alphabet="ab:-[]{}!&*<>|'\"0.1_x~ \nintfloasp,?", max_size=40))
def test_nothing_else_comes_out_of_a_text(text: str) -> None:
    with contextlib.suppress(NotPlain, yaml.YAMLError):
        read_yaml(text)


@given(
    st.sampled_from(["int", "float", "bool", "null", "timestamp", "binary", "set", "omap", "pairs", "str", "merge"]),
    st.text("0123456789.:+-eExXobT_ aZ", max_size=8),
)
def test_nothing_else_comes_out_of_a_tag(tag: str, value: str) -> None:
    with contextlib.suppress(NotPlain, yaml.YAMLError):
        read_yaml(f"a: !!{tag} '{value}'")
