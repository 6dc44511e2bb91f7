"""Where an event log or a Redis is, as the settings say it: whether that can be, and how it is shown to people. Pure.

Not here: asking them (``serving.rollout.event_log``, ``serving.cache.redis_tier``).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_HOST: Final = r"(?:\[[^\[\]@/]*\]|[^\[\]@/?#:,]*)(?::\d*)?"
_SHOWN: Final = re.compile(rf"(?:[^/?#]*@)?(?P<where>{_HOST}(?:,{_HOST})*(?:/[^?#@:]*)?)(?:[?#][^@]*)?")

_POSTGRES: Final = re.compile(
    rf"(?:[^@/]*@)?{_HOST}(?:,{_HOST})*(?:/[^?@]*)?(?:\?(?:[^=&]+=[^=&]*(?:&[^=&]+=[^=&]*)*)?)?"
)
"""What libpq takes for a URL, behind the scheme."""
_BAD_ESCAPE: Final = re.compile(r"%(?!(?!00)[0-9a-fA-F]{2})")
_ESCAPES: Final = "in a password, / ? # @ : and % are written as %2F %3F %23 %40 %3A and %25"


def shown_place(place: str) -> str:
    """A path as it is; of a URL no user, no query and so no password.

    Of one that may be read in two ways, as it is where a password isn't escaped, only the scheme.
    """
    scheme, is_url, rest = place.partition("://")
    if not is_url or scheme == "sqlite":
        return place
    found = _SHOWN.fullmatch(rest)
    return f"{scheme}://{'...' if found is None else found['where']}"


def log_fault(place: str) -> str | None:
    """Why there can't be an event log at this place, without repeating it; None if there may be one."""
    scheme, is_url, rest = place.partition("://")
    if not is_url:
        return None if place.strip() else "it is empty"
    if scheme == "sqlite":
        return None if rest.startswith("/") and rest.strip("/") else "sqlite:// needs the absolute path of a file"
    if scheme not in ("postgresql", "postgres"):
        return "it is a path, sqlite:///path or postgresql://..."
    if _BAD_ESCAPE.search(rest):
        return "a % has to be followed by two hexadecimal digits, not 00; the sign itself is written %25"
    if not _POSTGRES.fullmatch(rest):
        return f"it isn't postgresql://user:password@host:port/database?key=value; {_ESCAPES}"
    return None


def redis_fault(url: str) -> str | None:
    """Why there can't be a Redis at this URL, without repeating it; None if there may be one."""
    if url.partition("://")[0] not in ("redis", "rediss", "unix"):
        return "it begins with redis://, rediss:// or unix://"
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and "@" not in parts.path + parts.fragment
    except ValueError:
        good = False
    return None if good else f"it isn't redis://user:password@host:port/database; {_ESCAPES}"
