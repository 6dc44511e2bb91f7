"""Lines fit, figures are short and honest, and nothing that others say moves the cursor."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.commands.terminal import (
    STYLES,
    bar,
    clean,
    clock,
    date_and_clock,
    drawn,
    figure,
    lasting,
    percent,
    wrapped,
)

SPANS = st.lists(st.tuples(st.text(), st.sampled_from(["", *STYLES, "bold red"])))


def test_a_line_that_is_too_wide_ends_with_an_ellipsis() -> None:
    line = [("abc", ""), ("def", "bold")]
    assert drawn(line, 6, color=False) == "abcdef"
    assert drawn(line, 5, color=False) == "abcd…"
    assert drawn(line, 2, color=False) == "a…"
    assert drawn(line, None, color=False) == "abcdef"


def test_only_what_has_a_style_is_painted_and_each_span_ends_its_own() -> None:
    assert drawn([("a", ""), ("b", "bold red")], 9, color=True) == "a\x1b[1;31mb\x1b[0m"


@given(SPANS, st.integers(1, 40))
def test_no_line_is_wider_than_it_may_be_and_none_has_a_control_character(
    line: list[tuple[str, str]], width: int
) -> None:
    plain = drawn(line, width, color=False)
    assert len(plain) <= width
    assert plain.isprintable()


def test_escape_sequences_of_others_are_taken_apart() -> None:
    assert clean("a\x1b[2Jb\r\n\x9bc\u202e") == "a·[2Jb···c·"
    assert drawn([("\x1b[31mred", "")], 80, color=True) == "·[31mred"
    assert wrapped("one\ntwo\x1b[0m", 80) == ["one two·[0m"]


def test_text_is_wrapped_and_a_percent_sign_stays_with_its_number() -> None:
    assert wrapped("this is about 10 % of all", 15) == ["this is about", "10 % of all"]
    assert wrapped("", 15) == [""]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "░░░░"), (0.001, "▏░░░"), (0.25, "█░░░"), (0.3125, "█▎░░"), (1, "████"), (7, "████"), (-1, "░░░░")],
)
def test_a_bar_shows_a_share_and_a_little_is_not_nothing(share: float, shown: str) -> None:
    assert "".join(text for text, _ in bar(share, 4, "")) == shown


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 60))
def test_a_bar_is_always_as_wide_as_it_is_said_to_be(share: float, width: int) -> None:
    assert sum(len(text) for text, _ in bar(share, width, "")) == width


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1, "1"),
        (0.4473, "0.447"),
        (1.83, "1.83"),
        (233_326.0, "233,326"),
        (1234.6, "1,235"),
        (1e300, "1e+300"),
    ],
)
def test_figures_are_short(value: float, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.99999, "99.9 %"), (0.00001, "under 0.01 %"), (0.935, "93.5 %"), (0.0012, "0.12 %")],
)
def test_a_share_is_never_said_to_be_all_or_nothing_if_it_is_not(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0 s"),
        (0.38, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m 00s"),
        (134, "2m 14s"),
        (3599.7, "1h 00m"),
        (3900, "1h 05m"),
        (266_400, "3d 02h"),
    ],
)
def test_durations_have_two_figures_that_matter(seconds: float, shown: str) -> None:
    assert lasting(seconds) == shown


def test_times_are_of_the_zone_that_is_told() -> None:
    assert clock(86_399, UTC) == "23:59:59"
    assert date_and_clock(86_399, timezone(timedelta(hours=1))) == "1970-01-02 00:59:59"
    assert clock(1e300, UTC) == "00:00:00"
