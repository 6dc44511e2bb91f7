"""A line of the log is one line and says what it says, whatever anyone put into it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.log_lines import MESSAGE_MAX_CHARACTERS, JsonLines, TextLines, fields, formatter

ANY_TEXT = st.text(st.characters())


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    trace = more.pop("exc_info", None)
    made = logging.LogRecord("holdfast.requests", logging.WARNING, __file__, 1, message, args, trace)
    made.created = 1764392000.5
    for name, value in more.items():
        setattr(made, name, value)
    return made


def raised(text: str) -> Any:
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_a_text_line_has_its_time_level_logger_and_fields() -> None:
    line = TextLines().format(
        record("%s failed", "m@v1", **fields(request_id="a kelp", version="v1", rollout="", n=None))
    )
    assert line == ('2025-11-29T04:53:20.500Z WARNING holdfast.requests: m@v1 failed  request_id="a kelp" version=v1')


def test_a_json_line_has_the_same_and_the_process() -> None:
    line = json.loads(JsonLines().format(record("%s failed", "m@v1", process=7, **fields(trace_id="ab", attempts=2))))
    assert line == {
        "time": "2025-11-29T04:53:20.500Z",
        "level": "WARNING",
        "logger": "holdfast.requests",
        "message": "m@v1 failed",
        "pid": 7,
        "trace_id": "ab",
        "attempts": 2,
    }
    assert datetime.fromisoformat(line["time"]).timestamp() == 1764392000.5


def test_no_field_takes_the_place_of_what_every_line_has() -> None:
    line = json.loads(JsonLines().format(record("m", **fields(level="INFO", message="all is well", time="never"))))
    assert (line["level"], line["message"], line["time"]) == ("WARNING", "m", "2025-11-29T04:53:20.500Z")


@given(message=ANY_TEXT, value=ANY_TEXT)
def test_no_text_begins_a_line_of_its_own(message: str, value: str) -> None:
    made = record("%s", message, **fields(fault=value))
    text = TextLines().format(made)
    assert text.isprintable()
    raw = JsonLines().format(made)
    assert raw.isascii()
    assert raw.isprintable()
    line = json.loads(raw)
    if len(message) <= MESSAGE_MAX_CHARACTERS:
        assert line["message"].encode("utf-16", "surrogatepass") == message.encode("utf-16", "surrogatepass")


@given(value=ANY_TEXT)
def test_a_field_in_a_text_line_can_not_pretend_to_be_two(value: str) -> None:
    line = TextLines().format(record("m", **fields(a=value, z="end")))
    known = line.partition(": m  ")[2]
    if not value:
        assert known == "z=end"
        return
    assert known.endswith(" z=end")
    shown = known.removeprefix("a=").removesuffix(" z=end")
    if shown.startswith('"'):
        assert isinstance(json.loads(shown), str)
    else:
        assert " " not in shown
        assert "=" not in shown


@given(text=ANY_TEXT)
def test_lines_of_a_trace_are_indented_so_that_none_looks_like_a_record(text: str) -> None:
    made = record("it broke", exc_info=raised(f"{text}\n2025-11-29T04:53:20.500Z WARNING holdfast: forged"))
    first, *others = TextLines().format(made).split("\n")
    assert first.endswith("it broke")
    assert others[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert "ValueError" in json.loads(JsonLines().format(made))["exception"]


def test_a_message_has_an_end() -> None:
    line = TextLines().format(record("x" * 100_000))
    assert len(line) < MESSAGE_MAX_CHARACTERS + 200
    assert line.endswith(f"({100_000 - MESSAGE_MAX_CHARACTERS} characters left out)")
    assert len(TextLines().format(record("m", **fields(why="x" * 100_000)))) < 1200


@pytest.mark.parametrize(("name", "kind"), [("text", TextLines), ("json", JsonLines)])
def test_the_settings_choose(name: str, kind: type[logging.Formatter]) -> None:
    assert type(formatter(name)) is kind
