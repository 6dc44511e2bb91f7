"""The stickiness key of a request: what stays with its variant while a canary's weight grows. Pure.

Not here: which variant that is (``serving.routing.split``). The key is looked at whether or not the model has a canary
now, so that no rollout turns a good request into a bad one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving.errors import InvalidRequest

STICKY_HEADER: Final = "x-sticky-key"
STICKY_KEY_MAX_BYTES: Final = 256


def sticky_key_of(parameters: Mapping[str, Any], header: bytes | None) -> bytes | None:
    """The key: the ``sticky_key`` parameter's UTF-8, else the header's bytes; an empty one is none.

    Raises ``InvalidRequest`` for anything but text of at most 256 bytes.
    """
    key = header
    if (parameter := parameters.get("sticky_key")) is not None:
        if type(parameter) is not str:
            raise InvalidRequest(f"parameters.sticky_key: {parameter!r:.32} isn't text")
        key = parameter.encode(errors="surrogatepass")
        if len(key) > STICKY_KEY_MAX_BYTES:
            raise _too_long(key, "parameters.sticky_key")
    if header is not None and len(header) > STICKY_KEY_MAX_BYTES:
        raise _too_long(header, f"header {STICKY_HEADER}")
    return key or None


def _too_long(key: bytes, where: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: it has {len(key)} bytes, more than {STICKY_KEY_MAX_BYTES}")
