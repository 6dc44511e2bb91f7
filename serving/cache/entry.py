"""A cached prediction: its form as bytes, and whether it may be given to somebody. Pure.

The checksum is keyed with the cache key. So bytes that are torn, foreign, or stored under another key can't be read,
and are a miss. It guards against accidents, not against somebody who may write to the store. Not here: where the
bytes are kept (``serving.cache.store``, ``serving.cache.redis_tier``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from typing import Final

import msgspec

from models.inference import Tensors
from serving.channel.frames import ProtocolError, padding
from serving.channel.messages import TensorHead, raw_tensors, read_tensors

FORMAT: Final = b"HFC1"
"""The first bytes that the checksum covers; another format has another number."""

_CHECKSUM_BYTES: Final = 16
_PREFIX: Final = struct.Struct("<4sI")  # the format, and the header's size
_HEAD_AT: Final = _CHECKSUM_BYTES + _PREFIX.size


class Entry(msgspec.Struct, frozen=True):
    """What a version answered, and when. ``stored_wall`` is in seconds since the Unix epoch."""

    model: str
    signature_digest: str
    version: str
    version_digest: str
    stored_wall: float
    outputs: Tensors


class _Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    model: str
    signature_digest: str
    version: str
    version_digest: str
    stored_wall: float
    tensors: tuple[TensorHead, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Head).decode


def encode_entry(entry: Entry, key: bytes) -> bytes:
    """The entry as bytes that can only be read with the same ``key``."""
    raw = raw_tensors(entry.outputs)
    head = _encode(
        _Head(entry.model, entry.signature_digest, entry.version, entry.version_digest, entry.stored_wall, raw.heads)
    )
    pad = bytes(padding(_HEAD_AT + len(head)))
    body = b"".join((_PREFIX.pack(FORMAT, len(head)), head, pad, *raw.body))
    return _checksum(body, key) + body


def decode_entry(raw: bytes | memoryview, key: bytes) -> Entry | None:
    """The entry that was stored under ``key`` as ``raw``, or None if ``raw`` is anything else. Never raises.

    The outputs lie in the memory of ``raw``.
    """
    view = memoryview(raw)
    if len(view) < _HEAD_AT:
        return None
    form, size = _PREFIX.unpack_from(view, _CHECKSUM_BYTES)
    if form != FORMAT or _checksum(view[_CHECKSUM_BYTES:], key) != bytes(view[:_CHECKSUM_BYTES]):
        return None
    end = _HEAD_AT + size
    try:
        head = _decode(view[_HEAD_AT:end])
        outputs = read_tensors(head.tensors, view[end + padding(end) :])
    except (ValueError, RecursionError, ProtocolError):  # a writer whose headers are others, in spite of the format
        return None
    return Entry(head.model, head.signature_digest, head.version, head.version_digest, head.stored_wall, outputs)


def _checksum(body: bytes | memoryview, key: bytes) -> bytes:
    return blake2b(body, digest_size=_CHECKSUM_BYTES, key=key).digest()


class Verdict(Enum):
    """Whether an entry may be given, and if not, why."""

    USABLE = "usable"
    FOREIGN = "foreign"
    """Another model's, or an answer to another signature."""
    STALE = "stale"
    """Older than is allowed, or from the future: one of two clocks has jumped, and its age is anybody's guess."""
    WITHDRAWN = "withdrawn"
    """Its version was taken back."""


def judge(
    entry: Entry,
    *,
    model: str,
    signature_digest: str,
    now_wall: float,
    max_stale_s: float,
    withdrawn: Callable[[str], bool],
) -> Verdict:
    """Whether ``entry`` may be given now; ``withdrawn`` is asked with its version's digest."""
    if entry.model != model or entry.signature_digest != signature_digest:
        return Verdict.FOREIGN
    if not 0.0 <= now_wall - entry.stored_wall <= max_stale_s:  # also if any of them is no number
        return Verdict.STALE
    if withdrawn(entry.version_digest):
        return Verdict.WITHDRAWN
    return Verdict.USABLE
