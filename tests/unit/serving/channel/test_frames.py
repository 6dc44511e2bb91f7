"""Any bytes, in any pieces: whole frames or ``ProtocolError``, and never more memory than was agreed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.channel.frames import (
    ALIGNMENT,
    HEADER_MAX_BYTES,
    JOIN_BELOW_BYTES,
    MAGIC,
    PREFIX,
    Buffer,
    Frame,
    FrameReader,
    Kind,
    ProtocolError,
    frame_bytes,
    frame_head,
    read_frame,
    write_buffers,
)

RECEIVE = 256
"""A small shared buffer, so that small examples cross its boundary."""
MAXIMUM = 2000

kinds = st.sampled_from(list(Kind))
frames = st.tuples(kinds, st.binary(max_size=80), st.binary(max_size=80) | st.integers(0, 1500).map(bytes))


def wire(kind: Kind, header: bytes, payload: bytes) -> bytes:
    return frame_head(kind, header, len(payload)) + payload


def reader(max_frame_bytes: int = MAXIMUM) -> FrameReader:
    return FrameReader(max_frame_bytes=max_frame_bytes, receive_bytes=RECEIVE)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """``data`` in pieces whose sizes ``cuts`` says, over and over."""
    start = turn = 0
    while start < len(data):
        size = cuts[turn % len(cuts)]
        yield data[start : start + size]
        start, turn = start + size, turn + 1


def received(into: FrameReader, piece: bytes) -> list[Frame]:
    """Hand a piece over as a transport does: fill what ``get_buffer`` gives, say how much, ask again."""
    found: list[Frame] = []
    while piece:
        buffer = into.get_buffer()
        assert len(buffer) > 0, "a transport can't receive into nothing"
        taken = min(len(buffer), len(piece))
        buffer[:taken] = piece[:taken]
        found += into.buffer_updated(taken)
        piece = piece[taken:]
    return found


cuts = st.lists(st.integers(1, 400), min_size=1, max_size=8)


@given(st.lists(frames, max_size=6), cuts)
@settings(deadline=None)
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    sent: list[tuple[Kind, bytes, bytes]], cuts: list[int]
) -> None:
    mine = reader()
    found = [
        frame for piece in pieces(b"".join(wire(*frame) for frame in sent), cuts) for frame in received(mine, piece)
    ]
    assert [(frame.kind, frame.header, bytes(frame.payload)) for frame in found] == sent
    assert mine.pending_bytes == 0


@given(st.lists(frames, min_size=1, max_size=4), cuts)
@settings(deadline=None)
def test_a_payload_is_still_what_it_was_when_the_next_frames_have_come(
    sent: list[tuple[Kind, bytes, bytes]], cuts: list[int]
) -> None:
    mine = reader()
    found = [
        frame for piece in pieces(b"".join(wire(*frame) for frame in sent), cuts) for frame in received(mine, piece)
    ]
    received(mine, wire(Kind.PING, b"\xff" * 80, b"\xff" * 1500))
    assert [bytes(frame.payload) for frame in found] == [payload for _, _, payload in sent]


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Bytes of every sort: none that mean anything, damaged frames, and prefixes with sizes of their own choice."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        good = bytearray(wire(*draw(frames)))
        damage = draw(st.sampled_from(["none", "flip", "cut", "random", "prefix"]))
        if damage == "flip":
            good[draw(st.integers(0, len(good) - 1))] ^= draw(st.integers(1, 255))
        elif damage == "cut":
            del good[draw(st.integers(0, len(good))) :]
        elif damage == "random":
            good = bytearray(draw(st.binary(max_size=60)))
        elif damage == "prefix":
            sizes = st.integers(0, 2**32 - 1) | st.integers(0, 3000)
            good[: PREFIX.size] = PREFIX.pack(MAGIC, draw(kinds), draw(st.integers(0, 255)), draw(sizes), draw(sizes))
        parts.append(bytes(good))
    return b"".join(parts)


@given(noise(), cuts)
@settings(deadline=None, max_examples=300)
def test_noise_ends_in_frames_or_in_a_protocol_error_and_never_takes_more_memory_than_agreed(
    data: bytes, cuts: list[int]
) -> None:
    mine = reader()
    try:
        for piece in pieces(data, cuts):
            for frame in received(mine, piece):
                assert frame.kind in set(Kind)
                assert PREFIX.size + len(frame.header) + len(frame.payload) <= MAXIMUM
    except ProtocolError:
        pass
    finally:
        assert len(mine._target) <= max(RECEIVE, MAXIMUM)


def test_a_size_beyond_the_bound_is_refused_before_memory_is_taken() -> None:
    mine = reader()
    with pytest.raises(ProtocolError, match=r"a frame of \d+ bytes; at most 2000 are allowed"):
        received(mine, frame_head(Kind.INFER, b"", 2**32 - 1))
    assert len(mine._target) == RECEIVE


def test_a_frame_of_exactly_the_bound_is_let_in_and_one_byte_more_is_not() -> None:
    payload = MAXIMUM - ALIGNMENT
    (frame,) = received(reader(), wire(Kind.RESULT, b"", bytes(payload)))
    assert len(frame.payload) == payload
    with pytest.raises(ProtocolError, match="2001"):
        received(reader(), wire(Kind.RESULT, b"", bytes(payload + 1)))


def test_the_bound_may_be_raised_for_a_peer_that_is_known() -> None:
    mine = reader(100)
    mine.max_frame_bytes = MAXIMUM
    assert len(received(mine, wire(Kind.RESULT, b"", bytes(1000)))) == 1


def test_a_header_has_a_bound_of_its_own() -> None:
    mine = FrameReader(max_frame_bytes=1 << 30)
    with pytest.raises(ProtocolError, match="a header of"):
        received(mine, PREFIX.pack(MAGIC, Kind.INFER, 0, HEADER_MAX_BYTES + 1, 0))


@pytest.mark.parametrize(
    "prefix",
    [
        PREFIX.pack(MAGIC ^ 1, Kind.PING, 0, 0, 0),
        PREFIX.pack(MAGIC, 0, 0, 0, 0),
        PREFIX.pack(MAGIC, max(Kind) + 1, 0, 0, 0),
        b"GET / HTTP/1",
    ],
    ids=["magic", "kind 0", "unknown kind", "HTTP"],
)
def test_what_is_no_frame_is_refused_at_its_first_bytes(prefix: bytes) -> None:
    with pytest.raises(ProtocolError, match="doesn't speak"):
        received(reader(), prefix)


@given(st.integers(0, 255), st.integers(0, 40), st.integers(0, 40))
def test_padding_that_would_misplace_the_payload_is_refused(pad: int, header: int, payload: int) -> None:
    right = -(PREFIX.size + header) % ALIGNMENT if payload else 0
    data = PREFIX.pack(MAGIC, Kind.INFER, pad, header, payload) + bytes(header + pad + payload)
    if pad == right:
        assert len(received(reader(), data)) == 1
    else:
        with pytest.raises(ProtocolError, match="padding"):
            received(reader(), data)


@given(st.binary(max_size=200), st.sampled_from([8, 1000, 5000]))
def test_a_payload_starts_where_its_tensors_can_be_used_in_place(header: bytes, size: int) -> None:
    assert len(frame_head(Kind.INFER, header, size)) % ALIGNMENT == 0
    mine = FrameReader(max_frame_bytes=1 << 20, receive_bytes=2000)
    (frame,) = received(mine, wire(Kind.INFER, header, bytes(size)))
    array = np.frombuffer(frame.payload, np.float64)
    assert array.flags.aligned
    assert array.ctypes.data % 16 == 0


def test_a_large_payload_is_received_where_it_stays() -> None:
    mine = reader()
    data = wire(Kind.INFER, b"head", bytes(1000))
    received(mine, data[:100])
    target = mine._target
    (frame,) = received(mine, data[100:])
    assert np.shares_memory(np.frombuffer(frame.payload, np.uint8), np.frombuffer(target, np.uint8))


def test_half_a_frame_is_pending_until_the_rest_comes() -> None:
    mine = reader()
    data = wire(Kind.PING, b"abc", b"")
    assert received(mine, data[:7]) == []
    assert mine.pending_bytes == 7
    assert [frame.header for frame in received(mine, data[7:])] == [b"abc"]


@given(st.lists(frames, max_size=3), st.binary(max_size=20))
@settings(deadline=None)
def test_one_frame_is_read_from_memory_and_nothing_else_is_taken_for_one(
    sent: list[tuple[Kind, bytes, bytes]], rest: bytes
) -> None:
    raw = b"".join(wire(*frame) for frame in sent) + rest
    if len(sent) == 1 and not rest:
        frame = read_frame(raw, max_frame_bytes=MAXIMUM)
        assert (frame.kind, frame.header, bytes(frame.payload)) == sent[0]
    else:
        with pytest.raises(ProtocolError):
            read_frame(raw, max_frame_bytes=MAXIMUM)


class Written:
    """The part of a transport that a frame needs."""

    def __init__(self) -> None:
        self.writes: list[Buffer] = []

    def write(self, data: Buffer) -> None:
        self.writes.append(data)


@pytest.mark.parametrize(("size", "writes"), [(JOIN_BELOW_BYTES - 1, 1), (JOIN_BELOW_BYTES, 3)])
def test_a_small_frame_is_written_at_one_go_and_a_large_one_without_copying_it(size: int, writes: int) -> None:
    buffers: list[Buffer] = [b"head", bytes(size - 8), b"tail"]
    transport = Written()
    write_buffers(transport, buffers)
    assert frame_bytes(buffers) == size
    assert len(transport.writes) == writes
    assert b"".join(transport.writes) == b"".join(buffers)
    assert (transport.writes[-1] is buffers[-1]) == (writes == 3)
