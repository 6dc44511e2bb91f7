"""The endpoints that tell how the node stands: once, again and again, and one gateway's part of it. A ``Door``.

They only tell, so nobody is asked who they are. Not here: what they tell (``serving.live.hub``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from serving.errors import InvalidRequest, Overloaded
from serving.ingress.http import HttpRequest, HttpStream, Response, json_response
from serving.ingress.routes import GET, Target
from serving.live.hub import VIEWERS_MAX, Hub
from serving.live.series import SeriesPage

FIXED: Final[dict[str, Target]] = {
    "/v2/holdfast/overview": Target("overview", GET),
    "/v2/holdfast/live": Target("live_events", GET),
    "/v2/holdfast/series": Target("series", GET),
}
_EVENTS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_QUERY_MAX_BYTES: Final = 64


class LiveRoutes:
    """``page`` gives this gateway's own seconds after one."""

    def __init__(self, hub: Hub, page: Callable[[int], SeriesPage]) -> None:
        self._hub = hub
        self._page = page

    @property
    def endpoints(self) -> Collection[str]:
        return [target.endpoint for target in FIXED.values()]

    def find(self, path: str) -> Target | None:
        return FIXED.get(path)

    async def answer(self, request: HttpRequest, target: Target) -> Response:
        """Raises ``Overloaded`` and ``InvalidRequest``."""
        if target.endpoint == "series":
            return json_response(msgspec.json.encode(self._page(read_after(request.url))))
        if target.endpoint == "overview":
            return json_response(await self._hub.overview())
        if self._hub.full:
            raise Overloaded(f"{VIEWERS_MAX} are watching already; ask for /v2/holdfast/overview", retry_after_s=10.0)
        return HttpStream(200, list(_EVENTS), self._hub.watch())


def read_after(url: bytes) -> int:
    """The query's ``after``, a second since the epoch, 0 if it isn't there; raises ``InvalidRequest``."""
    query = url.partition(b"?")[2]
    if len(query) > _QUERY_MAX_BYTES:
        raise InvalidRequest(f"query: it has more than {_QUERY_MAX_BYTES} bytes")
    asked = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    if asked.keys() - {"after"}:
        raise InvalidRequest("query: there is no parameter but after")
    text = asked.get("after", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 13):
        raise InvalidRequest(f"query: after: '{text[:32]}' isn't a whole number of seconds")
    return int(text)
