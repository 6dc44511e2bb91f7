"""What is said over the tensor channel: headers, and tensors as raw bytes.

Headers are msgspec structs in msgpack, never a pickle. Not here: framing (``serving.channel.frames``), sockets,
and the work itself (``serving.channel.work``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from models.inference import DATATYPES, Array, Tensor, Tensors, element_count, pack_bytes, unpack_bytes
from serving.channel.frames import Buffer, Frame, Kind, ProtocolError, frame_bytes, frame_head, padding
from serving.channel.work import Answer, Work
from serving.errors import ModelFailed, PayloadTooLarge, RequestError

PROTOCOL_VERSION: Final = 2
"""The first frames agree on it. Another field in a head, or another meaning of one, is another version."""

COPY_BELOW_BYTES: Final = 1 << 14
"""Smaller tensors are copied into the frame: one write is cheaper than many."""

ERROR_TEXT_MAX: Final = 2000
"""Characters of an error's text that are sent; a model may put a whole tensor into its text."""


class TensorHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tensor's name, datatype and shape, and how many bytes of the payload are its."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size_bytes: int


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """The first frame either way: which protocol, and from the replica which version it serves."""

    protocol: int
    secret: str = ""
    model: str = ""
    version: str = ""
    digest: str = ""


class InferHead(msgspec.Struct, array_like=True, frozen=True):
    """A batch of requests.

    Request ``i`` owns ``rows[i]`` rows and is of no use after ``budgets_us[i]`` microseconds, counted from arrival.
    """

    id: int
    rows: tuple[int, ...]
    budgets_us: tuple[int, ...]
    tensors: tuple[TensorHead, ...]


class ResultHead(msgspec.Struct, array_like=True, frozen=True):
    """The answer to a batch: the rows of every request that isn't in ``dropped``, in order."""

    id: int
    tensors: tuple[TensorHead, ...]
    dropped: tuple[int, ...] = ()
    compute_us: int = 0


class ErrorHead(msgspec.Struct, array_like=True, frozen=True):
    """The batch ``id`` failed as a whole (0: the connection did). ``code`` as in ``serving.errors``."""

    id: int
    code: str
    message: str


class CancelHead(msgspec.Struct, array_like=True, frozen=True):
    """Nobody waits for request ``item`` of batch ``id`` any more."""

    id: int
    item: int


class PingHead(msgspec.Struct, array_like=True, frozen=True):
    """Are you there? A reply says how much work waits and how long the current run takes already.

    A question says what the gateway thinks of the replica (``serving.channel.work.Report``).
    """

    nonce: int
    reply: bool = False
    waiting: int = 0
    running_us: int = 0
    demand: float = 0.0
    ejected_s: float = 0.0


class GoodbyeHead(msgspec.Struct, array_like=True, frozen=True):
    """The replica takes no new work; what it has it finishes."""

    reason: str


Head = TypeVar("Head", Hello, InferHead, ResultHead, ErrorHead, CancelHead, PingHead, GoodbyeHead)

_encode = msgspec.msgpack.Encoder().encode
_DECODERS: Final[dict[type[msgspec.Struct], msgspec.msgpack.Decoder[Any]]] = {
    Hello: msgspec.msgpack.Decoder(Hello),
    InferHead: msgspec.msgpack.Decoder(InferHead),
    ResultHead: msgspec.msgpack.Decoder(ResultHead),
    ErrorHead: msgspec.msgpack.Decoder(ErrorHead),
    CancelHead: msgspec.msgpack.Decoder(CancelHead),
    PingHead: msgspec.msgpack.Decoder(PingHead),
    GoodbyeHead: msgspec.msgpack.Decoder(GoodbyeHead),
}


def read_head(frame: Frame, head: type[Head]) -> Head:
    """The frame's header as a ``head``; raises ``ProtocolError`` if it isn't one."""
    try:
        message: Head = _DECODERS[head].decode(frame.header)
    except (ValueError, RecursionError) as error:  # msgspec's own errors, and strings that aren't UTF-8
        raise ProtocolError(f"a {head.__name__} that can't be read: {error}") from None
    return message


def small_frame(kind: Kind, head: msgspec.Struct) -> bytes:
    """A frame without tensors."""
    return frame_head(kind, _encode(head), 0)


def work_frame(batch: int, work: Work, *, now: float) -> list[Buffer]:
    """The INFER frame of ``work`` as buffers to be written one after the other.

    ``now`` is the monotonic time in seconds; a deadline that has just passed leaves one microsecond.
    """
    budgets = tuple([max(1, int((deadline - now) * 1e6)) for deadline in work.deadlines])
    return _tensor_frame(Kind.INFER, work.inputs, lambda heads: InferHead(batch, work.rows, budgets, heads))


def answer_frame(batch: int, answer: Answer) -> list[Buffer]:
    """The RESULT frame of ``answer`` as buffers to be written one after the other."""
    compute_us = int(answer.compute_s * 1e6)
    return _tensor_frame(
        Kind.RESULT, answer.outputs, lambda heads: ResultHead(batch, heads, answer.dropped, compute_us)
    )


def outcome_frame(batch: int, outcome: Answer | RequestError, *, requests: int, max_frame_bytes: int) -> list[Buffer]:
    """The frame that says how a batch of so many requests ended, as buffers.

    An answer too large for a frame is the caller's doing, who asked for so many rows. The gateway hears so of a
    request that stands alone; of several it hears that the batch has failed, so that it takes it apart.
    """
    if isinstance(outcome, RequestError):
        return [error_frame(batch, outcome)]
    buffers = answer_frame(batch, outcome)
    if (size := frame_bytes(buffers)) > max_frame_bytes:
        text = f"the answer needs {size} bytes on its way from the model; at most {max_frame_bytes} can be sent"
        return [error_frame(batch, PayloadTooLarge(text) if requests == 1 else ModelFailed(text))]
    return buffers


def error_frame(batch: int, error: RequestError) -> bytes:
    """The ERROR frame of a batch that failed as a whole."""
    text = error.message[:ERROR_TEXT_MAX].encode(errors="backslashreplace").decode()
    return small_frame(Kind.ERROR, ErrorHead(batch, error.code, text))


def read_work(frame: Frame, *, now: float) -> tuple[int, Work]:
    """The batch's number and the work of an INFER frame; deadlines count from ``now``."""
    head = read_head(frame, InferHead)
    if not head.rows or len(head.rows) != len(head.budgets_us) or min(head.rows) < 0:
        raise ProtocolError("an InferHead whose rows and budgets don't belong together")
    if len(head.rows) > 1:
        rows = sum(head.rows)
        if any(tensor.shape[:1] != (rows,) for tensor in head.tensors):
            raise ProtocolError(f"an InferHead whose tensors haven't the {rows} rows of its requests")
    deadlines = tuple([now + budget * 1e-6 for budget in head.budgets_us])
    return head.id, Work(read_tensors(head.tensors, frame.payload), head.rows, deadlines)


def read_answer(head: ResultHead, frame: Frame) -> Answer:
    """The answer of a RESULT frame whose header is ``head``."""
    return Answer(read_tensors(head.tensors, frame.payload), head.dropped, head.compute_us * 1e-6)


def _tensor_frame(
    kind: Kind, tensors: Tensors, head: Callable[[tuple[TensorHead, ...]], msgspec.Struct]
) -> list[Buffer]:
    raw = raw_tensors(tensors)
    return [frame_head(kind, _encode(head(raw.heads)), raw.size_bytes), *raw.body]


class RawTensors(NamedTuple):
    """Tensors as bytes. ``body`` is the payload, to be written one after the other, with padding between tensors."""

    heads: tuple[TensorHead, ...]
    body: list[Buffer]
    size_bytes: int


def raw_tensors(tensors: Tensors) -> RawTensors:
    """The one form of these tensors as bytes; it doesn't depend on how the arrays lie in memory."""
    heads: list[TensorHead] = []
    body: list[Buffer] = []
    total = 0
    for tensor in tensors:
        pad = padding(total)
        if pad:
            body.append(bytes(pad))
        raw = _raw(tensor)
        total += pad + len(raw)
        heads.append(TensorHead(tensor.name, tensor.datatype, tensor.shape, len(raw)))
        body.append(raw)
    return RawTensors(tuple(heads), body, total)


def _raw(tensor: Tensor) -> Buffer:
    if tensor.datatype == "BYTES":
        return pack_bytes(tensor.array)
    array = np.ascontiguousarray(tensor.array)
    return array.data.cast("B") if array.nbytes > COPY_BELOW_BYTES else array.tobytes()


def read_tensors(heads: Sequence[TensorHead], payload: memoryview) -> Tensors:
    """The tensors whose ``raw_tensors`` these are, in the payload's memory; raises ``ProtocolError``."""
    tensors: list[Tensor] = []
    offset = 0
    for head in heads:
        offset += padding(offset)
        if head.size_bytes < 0 or offset + head.size_bytes > len(payload):
            raise ProtocolError(f"tensor '{head.name}' reaches beyond its frame")
        raw = payload[offset : offset + head.size_bytes]
        tensors.append(Tensor(head.name, head.datatype, _read_array(head, raw)))
        offset += head.size_bytes
    if offset != len(payload):
        raise ProtocolError(f"{len(payload) - offset} bytes behind the last tensor")
    return tuple(tensors)


def _read_array(head: TensorHead, raw: memoryview) -> Array:
    datatype = DATATYPES.get(head.datatype)
    if datatype is None or min(head.shape, default=0) < 0:
        raise ProtocolError(f"tensor '{head.name}' has datatype '{head.datatype}' and shape {list(head.shape)}")
    try:
        if datatype.kind == "bytes":
            return unpack_bytes(raw, head.shape)
        if element_count(head.shape) * datatype.itemsize != len(raw):
            raise ValueError(f"{len(raw)} bytes for {head.datatype} {list(head.shape)}")
        array: Array = np.ndarray(head.shape, datatype.dtype, raw)
    except ValueError as error:
        raise ProtocolError(f"tensor '{head.name}': {error}") from None
    return array
