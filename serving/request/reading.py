"""From a body to the request that it is: at once, or in a thread what takes long to read.

Not here: the forms that a body may have (``serving.protocol.decode``), and what hides it (``serving.request.inflate``).
"""

from __future__ import annotations

from typing import Final

from models.inference import InferenceRequest
from serving import garbage
from serving.own_thread import OwnThread
from serving.protocol.decode import RequestDecoder, parse_json_length

READ_AT_ONCE_MAX_BYTES: Final = 1 << 20
"""Where there is more to be read, others would wait: the JSON of a body that is as large as may be takes seconds."""


def read_now(
    decoder: RequestDecoder, body: bytes | memoryview, json_length: str | None, version: str | None
) -> InferenceRequest | None:
    """The request, or None if it takes long to read. ``json_length`` is ``Inference-Header-Content-Length``.

    Raises ``InvalidRequest``.
    """
    length = None if json_length is None else parse_json_length(json_length)
    if decoder.read_bytes(len(body), json_length=length) > READ_AT_ONCE_MAX_BYTES:
        return None
    return decoder.decode(body, json_length=length, version=version)


class Aside:
    """One thread for all that takes long. It starts with the first such body."""

    def __init__(self) -> None:
        self._thread = OwnThread("decode")

    async def read(
        self, decoder: RequestDecoder, body: bytes | memoryview, json_length: str | None, version: str | None
    ) -> InferenceRequest:
        """Raises ``InvalidRequest``."""
        return await self._thread.do(_read, decoder, body, json_length, version)


def _read(
    decoder: RequestDecoder, body: bytes | memoryview, json_length: str | None, version: str | None
) -> InferenceRequest:
    length = None if json_length is None else parse_json_length(json_length)
    with garbage.paused():
        return decoder.decode(body, json_length=length, version=version)
