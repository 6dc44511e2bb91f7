"""How a line of the log looks: text for people or JSON for machines, always one that can't pretend to be another.

Whatever isn't printable is escaped, so that no client, model or file can begin a line of its own or paint a terminal.
What is known of a request or a rollout goes beside the message, by ``extra=fields(...)``. Not here: where lines go
(``serving.deployments.process``), and which requests leave one (``serving.tracing.request_log``).
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Final

FIELDS: Final = "fields"
TEXT: Final = "text"
JSON: Final = "json"

MESSAGE_MAX_CHARACTERS: Final = 4000
FIELD_MAX_CHARACTERS: Final = 1000
TRACE_MAX_CHARACTERS: Final = 16_000
_INDENT: Final = "    "


def fields(**known: object) -> dict[str, dict[str, object]]:
    """For ``extra``: what isn't known (None, or empty) is left out, and long texts have an end."""
    return {FIELDS: {name: _bounded(value) for name, value in known.items() if value not in (None, "")}}


def formatter(log_format: str) -> logging.Formatter:
    return JsonLines() if log_format == JSON else TextLines()


def escaped(text: str) -> str:
    """The same text on one line, with nothing in it that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join([sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text])


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... ({len(text) - most} characters left out)"


def rfc3339(wall: float) -> str:
    """UTC, in milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextLines(logging.Formatter):
    """``2026-01-31T12:00:00.000Z WARNING holdfast.requests: message  name=value ...``.

    Lines of a trace are indented, so none looks like the beginning of a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        message = escaped(shortened(record.getMessage(), MESSAGE_MAX_CHARACTERS))
        line = f"{rfc3339(record.created)} {record.levelname} {record.name}: {message}"
        if known := _fields_of(record):
            line += "  " + " ".join(f"{name}={_value(value)}" for name, value in known.items())
        if trace := _trace_of(record):
            line += "".join(f"\n{_INDENT}{escaped(part)}" for part in trace.splitlines())
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": shortened(record.getMessage(), MESSAGE_MAX_CHARACTERS),
            "pid": record.process,
        }
        for name, value in _fields_of(record).items():
            line.setdefault(name, value)
        if trace := _trace_of(record):
            line["exception"] = trace
        # "\x7f" is the one control character that JSON in ASCII leaves as it is.
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"), default=str).replace("\x7f", "\\u007f")


def _bounded(value: object) -> object:
    return shortened(value, FIELD_MAX_CHARACTERS) if isinstance(value, str) else value


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    known: dict[str, Any] = getattr(record, FIELDS, {})
    return known


def _value(value: object) -> str:
    """A value in a line of text: in quotation marks if it could be taken for more than one."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    plain = text.isascii() and text.isprintable() and not any(sign in text for sign in ' "=\\')
    return text if plain else json.dumps(escaped(text), ensure_ascii=False)


def _trace_of(record: logging.LogRecord) -> str:
    """Without ``print``, of which Serve makes one that writes traces as tuples."""
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    trace = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return trace if len(trace) <= TRACE_MAX_CHARACTERS else f"... {trace[-TRACE_MAX_CHARACTERS:]}"
