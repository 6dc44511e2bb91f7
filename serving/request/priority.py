"""How urgent a request is.

Not here: what that means for it (``serving.request.admission``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving.errors import InvalidRequest

HIGH: Final = 1
NORMAL: Final = 2
LOW: Final = 3
PRIORITIES: Final = (HIGH, NORMAL, LOW)

PRIORITY_HEADER: Final = "x-request-priority"


def priority_of(parameters: Mapping[str, Any], header: str | None) -> int:
    """The priority of a request: 1 is high, 2 normal, 3 low.

    It is its ``priority`` parameter's or its header's (of two the higher one, that is, the smaller number, counts);
    0 and nothing mean normal. Raises ``InvalidRequest`` for anything else.
    """
    priority: int | None = None
    if (parameter := parameters.get("priority")) is not None:
        if type(parameter) is not int:
            raise InvalidRequest(f"parameters.priority: {parameter!r:.32} isn't a whole number")
        priority = _checked(parameter, "parameters.priority")
    if header is not None:
        if not header.isascii() or not header.isdecimal() or len(header) > 12:
            raise InvalidRequest(f"header {PRIORITY_HEADER}: '{header[:32]}' isn't a whole number")
        by_header = _checked(int(header), f"header {PRIORITY_HEADER}")
        return by_header if priority is None else min(priority, by_header)
    return NORMAL if priority is None else priority


def _checked(number: int, where: str) -> int:
    if not 0 <= number <= LOW:
        raise InvalidRequest(f"{where}: {number!s:.32} isn't 1 (high), 2 (normal), 3 (low) or 0 (the default)")
    return number or NORMAL
