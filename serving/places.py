"""Where an event log or a Redis is, as the settings say it: how that is shown to people. Pure.

Not here: asking them (``serving.rollout.event_log``, ``serving.cache.redis_tier``).
"""

from __future__ import annotations

import re
from typing import Final

_HOST: Final = r"(?:\[[^\[\]@/]*\]|[^\[\]@/?#:,]*)(?::\d*)?"
_SHOWN: Final = re.compile(rf"(?:[^/?#]*@)?(?P<where>{_HOST}(?:,{_HOST})*(?:/[^?#@:]*)?)(?:[?#][^@]*)?")


def shown_place(place: str) -> str:
    """A path as it is; of a URL no user, no query and so no password.

    Of one that may be read in two ways, as it is where a password isn't escaped, only the scheme.
    """
    scheme, is_url, rest = place.partition("://")
    if not is_url or scheme == "sqlite":
        return place
    found = _SHOWN.fullmatch(rest)
    return f"{scheme}://{'...' if found is None else found['where']}"
