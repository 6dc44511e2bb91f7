"""Where the stickiness key of a request comes from, and what isn't one."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import InvalidRequest
from serving.request.sticky import STICKY_KEY_MAX_BYTES, sticky_key_of

LONG = STICKY_KEY_MAX_BYTES


@pytest.mark.parametrize(
    ("parameters", "header", "key"),
    [
        ({}, None, None),
        ({"sticky_key": "ada"}, None, b"ada"),
        ({}, b"ada", b"ada"),
        ({"sticky_key": "ada"}, b"grace", b"ada"),
        ({"sticky_key": "\u00e9"}, None, "\u00e9".encode()),
        ({"sticky_key": ""}, None, None),
        ({}, b"", None),
        ({"sticky_key": "a" * LONG}, b"b" * LONG, b"a" * LONG),
    ],
)
def test_it_is_the_parameter_else_the_header(
    parameters: dict[str, Any], header: bytes | None, key: bytes | None
) -> None:
    assert sticky_key_of(parameters, header) == key


@pytest.mark.parametrize(
    ("parameters", "header", "field"),
    [
        ({"sticky_key": 7}, None, "parameters.sticky_key"),
        ({"sticky_key": True}, None, "parameters.sticky_key"),
        ({"sticky_key": "a" * (LONG + 1)}, None, "parameters.sticky_key"),
        ({"sticky_key": "\u00e9" * (LONG // 2 + 1)}, None, "parameters.sticky_key"),
        ({}, b"a" * (LONG + 1), "header x-sticky-key"),
        ({"sticky_key": "a"}, b"a" * (LONG + 1), "header x-sticky-key"),
    ],
)
def test_anything_else_is_refused_by_name(parameters: dict[str, Any], header: bytes | None, field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        sticky_key_of(parameters, header)
