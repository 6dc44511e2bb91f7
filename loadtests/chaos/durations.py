"""Durations as people write them: `500ms`, `5s`, `1m`, or a number of seconds. Pure."""

import re
from typing import Any, Final

_FORM: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Seconds(float):
    """A duration, or a moment after a beginning."""

    __slots__ = ()


def decode(kind: type, value: Any) -> Any:
    """The hook of msgspec for types that it doesn't know. Raises `ValueError`."""
    if kind is not Seconds:
        raise NotImplementedError(kind)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return Seconds(value)
    found = _FORM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"a duration is written as 500ms, 5s or 1m, not as {value!r}")
    return Seconds(float(found[1]) * _UNITS[found[2]])
