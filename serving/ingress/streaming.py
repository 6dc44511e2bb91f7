"""Sends a response that has no end of its own, as fast as its client reads and no faster.

A client that doesn't read for ``STALLED_S`` is hung up on: what waits for it must not grow. Not here: what the chunks
say, and HTTP around them (``serving.ingress.connection``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

log = logging.getLogger("holdfast.http")

STALLED_S: Final = 5.0
"""How long a client may keep us from writing on."""

_END: Final = b"0\r\n\r\n"


class Outlet:
    """Where a stream's bytes go. ``chunked``: in HTTP/1.1's chunks; otherwise the connection's end is the stream's."""

    def __init__(self, transport: asyncio.Transport, *, writable: Callable[[], bool], chunked: bool) -> None:
        self.chunked = chunked
        self._transport = transport
        self._writable = writable
        self._has_read = asyncio.Event()
        self._ended = False
        self._sending: asyncio.Timeout | None = None

    async def send(self, chunks: AsyncGenerator[bytes], *, head: bytes, head_only: bool) -> bool:
        """All of it, up to its end or ours; whether that is where it ends for the client, too. Closes ``chunks``."""
        self._transport.write(head + (b"transfer-encoding: chunked\r\n\r\n" if self.chunked else b"\r\n"))
        async with aclosing(chunks):
            if head_only:
                return self.chunked
            whole = await self._pass_on(chunks)
        if whole and self.chunked:
            self._transport.write(_END)
        return whole and self.chunked

    def resume(self) -> None:
        """The client has read."""
        self._has_read.set()

    def end(self) -> None:
        """Send nothing more, and wait for nobody."""
        self._ended = True
        if self._sending is not None:
            self._sending.reschedule(0.0)

    async def _pass_on(self, chunks: AsyncGenerator[bytes]) -> bool:
        """Chunk by chunk; False if it broke off, or the client didn't read, and so was hung up on."""
        try:
            async with asyncio.timeout(0.0 if self._ended else None) as self._sending:
                async for chunk in chunks:
                    self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.chunked else chunk)
                    await self._until_writable()
        except TimeoutError:
            whole = self._ended and not self._transport.get_write_buffer_size()
        except Exception:
            log.exception("a stream broke off")
            whole = False
        else:
            whole = True
        finally:
            self._sending = None
        if not whole:
            self._transport.abort()
        return whole

    async def _until_writable(self) -> None:
        """Raises ``TimeoutError`` if the client doesn't read."""
        if self._writable():
            return
        async with asyncio.timeout(STALLED_S):
            while not self._writable():
                self._has_read.clear()
                await self._has_read.wait()
