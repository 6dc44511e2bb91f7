"""The bodies of requests that aren't inferences: inflated, and read as what they should be. Pure.

Not here: an inference's body (``serving.protocol.decode``).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from serving.errors import InvalidRequest
from serving.ingress.http import HttpRequest
from serving.protocol.compression import decompress

T = TypeVar("T")


def plain_body(request: HttpRequest, *, max_bytes: int) -> bytes:
    """Raises ``PayloadTooLarge``, ``UnsupportedEncoding`` and ``InvalidRequest``."""
    encoding = request.headers.get(b"content-encoding")
    if encoding is None:
        return request.body
    return bytes(decompress(request.body, encoding.decode("latin-1"), max_bytes=max_bytes))


def read_body(body: bytes, kind: type[T]) -> T:
    """The body as ``kind``; raises ``InvalidRequest``, whose text names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error).replace("Object contains unknown field", "unknown field")
        what, _, where = text.partition(" - at `$")
        raise InvalidRequest(f"{where.strip('.`') or 'the body'}: {what}") from None
    except (ValueError, RecursionError) as error:  # msgspec's own errors, and what isn't UTF-8
        raise InvalidRequest(f"the body: {error}") from None
