"""A request's body as its ``Content-Encoding`` hides it, inflated at once or, if there is more of it, in a thread.

Not here: the encodings themselves, and what may not be inflated (``serving.protocol.compression``).
"""

from __future__ import annotations

import asyncio
from typing import Final

from serving.errors import PayloadTooLarge
from serving.protocol.compression import decompress

AT_ONCE_MAX_BYTES: Final = 64 << 10
"""Of the body as it comes and of what it hides, which may be a thousand times as much."""


async def inflate(body: bytes | memoryview, content_encoding: str, *, max_bytes: int) -> bytes | memoryview:
    """As ``decompress``, and raises as it does."""
    if len(body) <= AT_ONCE_MAX_BYTES:
        try:
            return decompress(body, content_encoding, max_bytes=min(AT_ONCE_MAX_BYTES, max_bytes))
        except PayloadTooLarge:
            if max_bytes <= AT_ONCE_MAX_BYTES:
                raise
    return await asyncio.to_thread(decompress, body, content_encoding, max_bytes=max_bytes)
