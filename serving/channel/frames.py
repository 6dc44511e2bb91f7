"""Frames of the tensor channel: bytes in, whole frames out, nothing beyond the agreed size.

A frame is a 12-byte prefix (magic u16, kind u8, padding size u8, header size u32, payload size u32, all little
endian), a header, the padding and a payload. What a header means is ``serving.channel.messages``' business;
sockets are ``serving.channel.client``'s and ``serving.channel.server``'s.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview

PREFIX: Final = struct.Struct("<HBBII")
MAGIC: Final = 0x4648
ALIGNMENT: Final = 64
"""Payloads start, and tensors inside them, at a multiple of this, so that a model may use them in place."""

HEADER_MAX_BYTES: Final = 1 << 20
JOIN_BELOW_BYTES: Final = 1 << 17
"""A frame smaller than this is written at one go: copying it costs less than several writes."""

_RECEIVE_BYTES: Final = 1 << 18


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    INFER = 2
    RESULT = 3
    ERROR = 4
    CANCEL = 5
    PING = 6
    GOODBYE = 7


_KINDS: Final = frozenset(int(kind) for kind in Kind)


class ProtocolError(Exception):
    """The peer sent something that isn't a frame. The connection can't be used any more."""


class Frame(NamedTuple):
    """One whole frame. ``payload`` is the receiver's own memory: it stays valid."""

    kind: int
    header: bytes
    payload: memoryview


def padding(size: int) -> int:
    """How many bytes bring ``size`` up to the next multiple of ``ALIGNMENT``."""
    return -size % ALIGNMENT


def frame_head(kind: Kind, header: bytes, payload_bytes: int) -> bytes:
    """Prefix, header and padding of a frame whose payload of ``payload_bytes`` follows."""
    pad = padding(PREFIX.size + len(header)) if payload_bytes else 0
    return PREFIX.pack(MAGIC, kind, pad, len(header), payload_bytes) + header + bytes(pad)


class Writer(Protocol):
    """The part of a transport that a frame needs."""

    def write(self, data: Buffer) -> None: ...


def frame_bytes(buffers: list[Buffer]) -> int:
    """The size of the frame that these buffers are."""
    return sum(map(len, buffers))


def write_buffers(writer: Writer, buffers: list[Buffer]) -> None:
    """Write a frame: a small one at one go, a large one without copying its tensors first."""
    if frame_bytes(buffers) < JOIN_BELOW_BYTES:
        writer.write(b"".join(buffers))
    else:
        for buffer in buffers:
            writer.write(buffer)


class FrameReader:
    """Turns received bytes into frames; made for ``asyncio.BufferedProtocol``.

    Small frames share one receive buffer and are copied out of it. A frame that doesn't fit there gets memory
    of exactly its size, which later becomes its payload without another copy. Sizes are checked before any
    memory is taken; ``max_frame_bytes`` may be raised once the peer is known.
    """

    def __init__(self, *, max_frame_bytes: int, receive_bytes: int = _RECEIVE_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._shared = bytearray(receive_bytes)
        self._target = self._shared
        self._filled = 0

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return memoryview(self._target)[self._filled :]

    def buffer_updated(self, received: int) -> list[Frame]:
        """The frames that ``received`` new bytes in the buffer complete.

        Raises ``ProtocolError`` when they can't be frames; the reader is of no use after that.
        """
        self._filled += received
        if self._target is not self._shared:
            return self._finish_large()
        frames: list[Frame] = []
        view = memoryview(self._shared)
        start = 0
        while self._filled - start >= PREFIX.size:
            total = self._checked_size(start)
            if self._filled - start < total:
                if total > len(self._shared):
                    self._start_large(start, total)
                    return frames
                break
            kind, header, payload = _parts(view[start : start + total])
            frames.append(Frame(kind, header, memoryview(bytes(payload))))
            start += total
        if start:
            self._keep_rest(start)
        return frames

    def feed(self, data: Buffer) -> list[Frame]:
        """As ``buffer_updated``, for bytes that are already in memory."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            buffer = self.get_buffer()
            taken = min(len(buffer), len(rest))
            buffer[:taken] = rest[:taken]
            frames.extend(self.buffer_updated(taken))
            rest = rest[taken:]
        return frames

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that isn't whole yet."""
        return self._filled

    def _checked_size(self, start: int) -> int:
        magic, kind, pad, header_bytes, payload_bytes = PREFIX.unpack_from(self._shared, start)
        if magic != MAGIC or kind not in _KINDS:
            raise ProtocolError("the peer doesn't speak the tensor channel's frames")
        if header_bytes > HEADER_MAX_BYTES:
            raise ProtocolError(f"a header of {header_bytes} bytes; at most {HEADER_MAX_BYTES} are allowed")
        if pad != (padding(PREFIX.size + header_bytes) if payload_bytes else 0):
            raise ProtocolError(f"{pad} bytes of padding don't bring the payload to a multiple of {ALIGNMENT}")
        total: int = PREFIX.size + header_bytes + pad + payload_bytes
        if total > self.max_frame_bytes:
            raise ProtocolError(f"a frame of {total} bytes; at most {self.max_frame_bytes} are allowed")
        return total

    def _start_large(self, start: int, total: int) -> None:
        large = bytearray(total)
        have = self._filled - start
        large[:have] = memoryview(self._shared)[start : self._filled]
        self._target, self._filled = large, have

    def _finish_large(self) -> list[Frame]:
        if self._filled < len(self._target):
            return []
        whole = Frame(*_parts(memoryview(self._target)))
        self._target, self._filled = self._shared, 0
        return [whole]

    def _keep_rest(self, start: int) -> None:
        rest = self._filled - start
        self._shared[:rest] = self._shared[start : self._filled]
        self._filled = rest


def read_frame(raw: Buffer, *, max_frame_bytes: int) -> Frame:
    """The one frame that ``raw`` is; raises ``ProtocolError`` for anything else."""
    receive_bytes = max(PREFIX.size, min(len(raw), _RECEIVE_BYTES))
    reader = FrameReader(max_frame_bytes=max_frame_bytes, receive_bytes=receive_bytes)
    frames = reader.feed(raw)
    if len(frames) != 1 or reader.pending_bytes:
        raise ProtocolError(f"{len(frames)} whole frames and {reader.pending_bytes} bytes where one frame was due")
    return frames[0]


def _parts(whole: memoryview) -> tuple[int, bytes, memoryview]:
    """Kind, header and payload of the one frame that ``whole`` is."""
    _, kind, pad, header_bytes, _ = PREFIX.unpack_from(whole)
    end = PREFIX.size + header_bytes
    return kind, bytes(whole[PREFIX.size : end]), whole[end + pad :]
