"""What commands about rollouts and breakers say: their bodies and the query of a history. Pure.

Not here: what a rollout file may hold (``serving.rollout.spec``).
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from serving.errors import InvalidRequest
from serving.incidents.store import Wanted

FILE_MAX_CHARACTERS: Final = 64 << 10
"""More than a rollout file may have, so that its own error, which is better, comes first."""
LIMIT_DEFAULT: Final = 200
LIMIT_MAX: Final = 1000
SEQ_MAX: Final = (1 << 63) - 1
WANTED: Final = ("model", "version", "outcome", "since", "before", "limit")
_QUERY_MAX_BYTES: Final = 256
_WANTED_MAX_BYTES: Final = 1024
_MOMENT_MAX: Final = 1e11

Who = Annotated[str, Meta(min_length=1, max_length=128)]
Why = Annotated[str, Meta(max_length=1000)]


class StartRollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Begin the rollout that ``file``, the text of a rollout file, describes. ``who`` and ``why`` are recorded."""

    file: Annotated[str, Meta(min_length=1, max_length=FILE_MAX_CHARACTERS)]
    who: Who
    why: Why = ""


class CommandRollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pause, resume, promote, abort or roll back; which of them says the path."""

    who: Who
    why: Why = ""


class CloseBreaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Close the breaker of a version in all gateways; ``who`` and ``why`` go into the log."""

    who: Annotated[str, Meta(max_length=128)] = ""
    why: Why = ""


class Page(NamedTuple):
    """Which part of a history: at most ``limit`` events that come after number ``after``."""

    after: int
    limit: int


def read_wanted(url: bytes) -> Wanted:
    """Which incidents a request's query asks for; raises as ``read_page`` does."""
    found = _query(url, WANTED, max_bytes=_WANTED_MAX_BYTES)
    before = _number(found, "before", default=SEQ_MAX, least=1, most=SEQ_MAX)
    return Wanted(
        model=found.get("model"),
        version=found.get("version"),
        outcome=found.get("outcome"),
        since=_moment(found, "since"),
        before=before if "before" in found else None,
        limit=_number(found, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX),
    )


def _query(url: bytes, names: tuple[str, ...], *, max_bytes: int) -> dict[str, str]:
    query = url.partition(b"?")[2]
    if len(query) > max_bytes:
        raise InvalidRequest(f"query: it has more than {max_bytes} bytes")
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in names:
            only = f"{', '.join(names[:-1])} and {names[-1]}"
            raise InvalidRequest(f"query: there is no parameter '{name[:64]}', only {only}")
        if name in found:
            raise InvalidRequest(f"query: {name} stands there twice")
        found[name] = value
    return found


def read_page(url: bytes) -> Page:
    """The page that a request's query asks for; raises ``InvalidRequest``, whose text names the parameter."""
    found = _query(url, ("after", "limit"), max_bytes=_QUERY_MAX_BYTES)
    return Page(
        _number(found, "after", default=0, least=0, most=SEQ_MAX),
        _number(found, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX),
    )


def _moment(found: dict[str, str], name: str) -> float | None:
    """A moment in seconds since the Unix epoch."""
    text = found.get(name)
    if text is None:
        return None
    try:
        moment = float(text)
    except ValueError:
        moment = -1.0
    if not 0 <= moment <= _MOMENT_MAX:
        raise InvalidRequest(f"query: {name}: '{text[:32]}' isn't a moment in seconds since 1970")
    return moment


def _number(found: dict[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = found.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise InvalidRequest(f"query: {name}: '{text[:32]}' isn't a whole number from {least} to {most}")
    return int(text)
