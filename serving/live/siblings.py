"""Asks the node's other gateways how they stand, each at its own port. A thin shell.

A gateway that is too busy to answer in time is taken for as it was a moment ago; one whose port nobody listens at is
gone, and so is one that is another Holdfast's. Not here: what their answers mean (``serving.live.merge``,
``serving.live.history``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from serving.clock import Clock
from serving.live.heard import Heard, StatusHeard
from serving.live.series import SeriesPage
from serving.settings import HttpSettings

ASK_TIMEOUT_S: Final = 0.3
BUSY_S: Final = 2.0
"""So long is the last answer of one that is busy as good as a new one."""
STATUS_PATH: Final = "/v2/holdfast/status"
SERIES_PATH: Final = "/v2/holdfast/series"
_ANSWER_MAX_BYTES: Final = 16 << 20

_STATUS: Final = msgspec.json.Decoder(StatusHeard)
_PAGE: Final = msgspec.json.Decoder(SeriesPage)


class _Last(NamedTuple):
    heard: Heard
    at: float


class Siblings:
    """``own_port`` isn't asked. ``after`` says which seconds of a gateway's series are known.

    ``system`` is the mark of those that are siblings.
    """

    def __init__(
        self,
        http: HttpSettings,
        *,
        system: str,
        own_port: Callable[[], int],
        after: Callable[[str], int],
        clock: Clock,
    ) -> None:
        self._system = system
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.gateway_host, http.gateway_host)
        first, last = http.gateway_ports
        self._ports = range(first, last + 1)
        self._own_port = own_port
        self._after = after
        self._clock = clock
        self._last: dict[int, _Last] = {}

    async def ask(self) -> Sequence[Heard]:
        """Those that there are. Never raises."""
        ports = [port for port in self._ports if port != self._own_port()]
        found = await asyncio.gather(*map(self._ask, ports))
        return [heard for heard in found if heard is not None]

    async def _ask(self, port: int) -> Heard | None:
        known = self._last.get(port)
        after = 0 if known is None else self._after(known.heard.page.gateway)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                status, page = await asyncio.gather(
                    get(self._host, port, STATUS_PATH), get(self._host, port, f"{SERIES_PATH}?after={after}")
                )
            heard = Heard(port, _STATUS.decode(status), _PAGE.decode(page))
            if heard.status.gateway.system != self._system:
                raise ValueError(f"port {port}: it is another Holdfast's")
        except TimeoutError:
            if known is None or self._clock.monotonic() - known.at > BUSY_S:
                return None
            return known.heard
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self._last.pop(port, None)  # nobody is there, or somebody else
            return None
        self._last[port] = _Last(heard, self._clock.monotonic())
        return heard


async def get(host: str, port: int, path: str) -> bytes:
    """The body of a good answer; raises ``OSError`` or ``ValueError`` if there is none."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode("ascii"))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"{path}: {head[:32]!r}")
        body = await reader.read(_ANSWER_MAX_BYTES)
        while more := await reader.read(_ANSWER_MAX_BYTES):
            body += more
            if len(body) > _ANSWER_MAX_BYTES:
                raise ValueError(f"{path}: over {_ANSWER_MAX_BYTES} bytes")
        return body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
