"""W3C Trace Context, level 1: the headers ``traceparent`` and ``tracestate``, read as the recommendation says. Pure.

What isn't valid is as if it weren't there: nobody is refused for a header that is for those who watch. Not here: who
is sampled (``serving.tracing.sampling``).
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
TRACERESPONSE: Final = b"traceresponse"
"""Of the draft for answers: https://w3c.github.io/trace-context/#traceresponse-header"""

TRACEPARENT_MAX_BYTES: Final = 512
"""A later version of the header may be longer than ours, but not so long."""
STATE_MEMBERS_MAX: Final = 32
STATE_MAX_CHARACTERS: Final = 512
"""So much is passed on. What is more loses its last members, the largest ones first."""
_LARGE_MEMBER: Final = 128

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY: Final = re.compile(r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}")
_VALUE: Final = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_SAMPLED: Final = 1


class TraceParent(NamedTuple):
    """The caller's span. ``trace_id`` has 128 bits, ``span_id`` 64, neither is 0."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(raw: bytes) -> TraceParent | None:
    """What the header says, None if it isn't valid: then the trace begins anew."""
    if len(raw) > TRACEPARENT_MAX_BYTES or (found := _PARENT.fullmatch(raw.strip(b" \t"))) is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    parent = TraceParent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None


def format_traceparent(parent: TraceParent) -> bytes:
    return b"00-%032x-%016x-%02x" % (parent.trace_id, parent.span_id, parent.sampled)


def trace_id_text(trace_id: int) -> str:
    """As the header, the log and every tracing system show it."""
    return f"{trace_id:032x}"


def parse_tracestate(raw: bytes) -> tuple[tuple[str, str], ...]:
    """The members in order, nothing of a header that isn't valid."""
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        return ()
    members: list[tuple[str, str]] = []
    for part in text.split(","):
        if not (member := part.strip(" \t")):
            continue
        key, equals, value = member.partition("=")
        if not equals or _KEY.fullmatch(key) is None or _VALUE.fullmatch(value) is None:
            return ()
        members.append((key, value))
    if len(members) > STATE_MEMBERS_MAX or len({key for key, _ in members}) < len(members):
        return ()
    return _bounded(members)


def _bounded(members: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """What may be passed on: members over 128 characters go first, then the last ones."""
    for smallest in (_LARGE_MEMBER, 0):
        for index in range(len(members) - 1, -1, -1):
            if _size(members) <= STATE_MAX_CHARACTERS:
                break
            if len("=".join(members[index])) > smallest:
                del members[index]
    return tuple(members)


def _size(members: list[tuple[str, str]]) -> int:
    return sum(len(key) + len(value) + 1 for key, value in members) + max(len(members) - 1, 0)
