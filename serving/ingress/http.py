"""A whole HTTP request and a whole response, whatever server carries them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Final, NamedTuple

Header = tuple[bytes, bytes]

JSON_TYPE: Final[Header] = (b"content-type", b"application/json")


class HttpRequest(NamedTuple):
    """``headers`` by lower-case name; ``path`` decoded and without its query; ``body`` as it came.

    ``url`` is what was asked for as it came; of it only what stands behind a question mark counts.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes
    url: bytes = b""


class HttpResponse(NamedTuple):
    """``headers`` without a content length, which the server adds."""

    status: int
    headers: list[Header]
    body: bytes


class HttpStream(NamedTuple):
    """A response whose body comes bit by bit, for as long as the client stays; whoever sends it closes ``chunks``.

    The next chunk is asked for when the one before has left, so what makes them is never ahead of the client.
    """

    status: int
    headers: list[Header]
    chunks: AsyncGenerator[bytes]


Response = HttpResponse | HttpStream


def json_response(body: bytes, status: int = 200) -> HttpResponse:
    return HttpResponse(status, [JSON_TYPE], body)
