"""Request bodies inflated within a bound, response bodies compressed where it pays: gzip and deflate.

Not here: the limit itself (``serving.settings``), and the lengths of tensors inside a body (``decode``).
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final

from serving.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

COMPRESS_MIN_BYTES: Final = 1024
"""A smaller response is sent as it is: it fits into one packet, and compressing it costs more than it saves."""

_LEVEL: Final = 1
_GZIP: Final = 31
_ZLIB: Final = 15
_RAW_DEFLATE: Final = -15
_WINDOWS: Final = {"gzip": _GZIP, "deflate": _ZLIB}
"""What each encoding is for zlib, in order of preference. RFC 9110 8.4.1: deflate is the zlib format."""


def decompress(body: bytes | memoryview, content_encoding: str | None, *, max_bytes: int) -> bytes | memoryview:
    """The body that a request's ``Content-Encoding`` hides; no more than ``max_bytes`` are ever inflated.

    deflate is taken with and without zlib's wrapper, as clients disagree. Raises ``PayloadTooLarge``,
    ``UnsupportedEncoding``, and ``InvalidRequest`` if the body is corrupt, cut short, or followed by anything.
    """
    encoding = (content_encoding or "").strip().lower()
    if encoding in ("", "identity"):
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body
    if encoding in ("gzip", "x-gzip"):
        return _inflate(body, "gzip", (_GZIP,), max_bytes)
    if encoding == "deflate":
        return _inflate(body, "deflate", (_ZLIB, _RAW_DEFLATE), max_bytes)
    raise UnsupportedEncoding(f"Content-Encoding: '{encoding[:60]}' isn't supported, only one of gzip and deflate")


def compress(body: bytes, accept_encoding: str | None) -> tuple[bytes, str | None]:
    """The body to send and its ``Content-Encoding``; unchanged and None where compressing isn't wanted or worth it."""
    if accept_encoding is None or len(body) < COMPRESS_MIN_BYTES:
        return body, None
    encoding = choose_encoding(accept_encoding)
    if encoding is None:
        return body, None
    packed = zlib.compress(body, level=_LEVEL, wbits=_WINDOWS[encoding])
    return (packed, encoding) if len(packed) < len(body) else (body, None)


@lru_cache(maxsize=64)
def choose_encoding(accept_encoding: str) -> str | None:
    """gzip, deflate or None (as it is), whichever an ``Accept-Encoding`` likes best (RFC 9110 12.5.3).

    Equals are settled for the smaller body. None also if the header forbids all: an answer is better than 406.
    """
    weights: dict[str, float] = {}
    for entry in accept_encoding.lower().split(","):
        name, _, parameters = entry.partition(";")
        weights[name.strip()] = _weight(parameters)
    rest = weights.get("*", 0.0)
    best, best_weight = None, weights.get("identity", 0.0)
    for encoding in _WINDOWS:
        weight = weights.get(encoding, rest)
        if weight > 0 and (weight > best_weight or (best is None and weight == best_weight)):
            best, best_weight = encoding, weight
    return best


def _weight(parameters: str) -> float:
    """The value of ``q``: 1 if absent, 0 if it isn't a number from 0 to 1."""
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def _inflate(body: bytes | memoryview, encoding: str, windows: tuple[int, ...], max_bytes: int) -> bytes:
    for window in windows:
        stream = zlib.decompressobj(window)
        try:
            plain = stream.decompress(body, max_bytes + 1)
        except zlib.error:
            continue
        if len(plain) > max_bytes:
            raise _too_large(max_bytes)
        if not stream.eof:
            raise InvalidRequest(f"Content-Encoding: the {encoding} body is cut short")
        if stream.unused_data:
            raise InvalidRequest(f"Content-Encoding: bytes are left over after the end of the {encoding} body")
        return plain
    raise InvalidRequest(f"Content-Encoding: the body isn't valid {encoding}")


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has more than {max_bytes} bytes")
