from __future__ import annotations

import re
from typing import Any

import pytest

from serving.errors import InvalidRequest
from serving.request.priority import HIGH, LOW, NORMAL, priority_of


@pytest.mark.parametrize(
    ("parameters", "header", "priority"),
    [
        ({}, None, NORMAL),
        ({"priority": None}, None, NORMAL),
        ({"priority": 0}, None, NORMAL),
        ({"priority": 1}, None, HIGH),
        ({"priority": 2}, None, NORMAL),
        ({"priority": 3}, None, LOW),
        ({}, "0", NORMAL),
        ({}, "3", LOW),
        ({}, "01", HIGH),
        ({"priority": 3}, "1", HIGH),
        ({"priority": 1}, "3", HIGH),
        ({"priority": 3}, "3", LOW),
        ({"priority": 3}, "0", NORMAL),
    ],
)
def test_the_higher_one_of_parameter_and_header_counts_else_it_is_normal(
    parameters: dict[str, Any], header: str | None, priority: int
) -> None:
    assert priority_of(parameters, header) == priority


@pytest.mark.parametrize(
    ("priority", "text"),
    [
        (4, "parameters.priority: 4 isn't 1 (high), 2 (normal), 3 (low) or 0 (the default)"),
        (-1, "parameters.priority: -1 isn't 1 (high)"),
        (1.0, "parameters.priority: 1.0 isn't a whole number"),
        (True, "parameters.priority: True isn't a whole number"),
        ("1", "parameters.priority: '1' isn't a whole number"),
        pytest.param("9" * 1000, "parameters.priority: '999", id="long"),
        pytest.param(10**1000, "parameters.priority: 1000", id="huge"),
        ([1], "parameters.priority: [1] isn't a whole number"),
    ],
)
def test_a_wrong_parameter_is_named(priority: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(text)) as caught:
        priority_of({"priority": priority}, None)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("header", ["", "4", "-1", "1.0", " 1", "٣", "1_0", "high", "9" * 13])
def test_a_wrong_header_is_named(header: str) -> None:
    with pytest.raises(InvalidRequest, match="header x-request-priority: "):
        priority_of({}, header)


def test_a_wrong_header_is_named_even_if_the_parameter_is_right() -> None:
    with pytest.raises(InvalidRequest, match="header x-request-priority: '!' isn't a whole number"):
        priority_of({"priority": 1}, "!")
