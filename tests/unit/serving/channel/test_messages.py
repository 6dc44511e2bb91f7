"""Work and answers come back from the wire as they were; damaged ones end in ``ProtocolError``, whatever the damage."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.inference import DATATYPES, Array, Tensor, Tensors
from serving.channel.client import error_from_wire
from serving.channel.frames import Frame, Kind, ProtocolError, padding, read_frame
from serving.channel.messages import (
    COPY_BELOW_BYTES,
    ERROR_TEXT_MAX,
    ErrorHead,
    InferHead,
    PingHead,
    ResultHead,
    TensorHead,
    answer_frame,
    error_frame,
    outcome_frame,
    read_answer,
    read_head,
    read_work,
    small_frame,
    work_frame,
)
from serving.channel.work import Answer, Work
from serving.errors import (
    Internal,
    InvalidAnswer,
    InvalidRequest,
    ModelFailed,
    PayloadTooLarge,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
)
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from tests.fakes import DOUBLE, AnsweringReplica, FakeClock, doubled, request_of

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1000.0
LIMIT = 1 << 20


@st.composite
def array(draw: st.DrawFn, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype != "BYTES":
        drawn: Array = draw(arrays.arrays(DATATYPES[datatype].dtype, shape))
        return drawn
    count = int(np.prod(shape))
    filled = np.empty(count, dtype=object)
    filled[:] = draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
    return filled.reshape(shape)


@st.composite
def tensors(draw: st.DrawFn, rows: int | None = None) -> Tensors:
    """Up to four tensors of any datatype and shape, empty and scalar ones too; with ``rows``, all have as many."""
    made = []
    for index in range(draw(st.integers(0, 4))):
        datatype = draw(st.sampled_from(sorted(DATATYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
        made.append(Tensor(f"t{index}", datatype, draw(array(datatype, shape if rows is None else (rows, *shape)))))
    return tuple(made)


@st.composite
def works(draw: st.DrawFn) -> Work:
    rows = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    deadlines = tuple(NOW + draw(st.integers(1, 10**7)) / 1000 for _ in rows)
    return Work(draw(tensors(sum(rows) if len(rows) > 1 else None)), tuple(rows), deadlines)


def whole(buffers: list[Any]) -> Frame:
    return read_frame(b"".join(buffers), max_frame_bytes=LIMIT)


def assert_same(mine: Tensors, theirs: Tensors) -> None:
    assert [(each.name, each.datatype, each.shape) for each in mine] == [
        (each.name, each.datatype, each.shape) for each in theirs
    ]
    for one, other in zip(mine, theirs, strict=True):
        assert one.array.dtype == other.array.dtype
        np.testing.assert_array_equal(one.array, other.array)
        assert one.datatype == "BYTES" or one.array.tobytes() == other.array.tobytes()


class TestRoundTrip:
    @given(works(), st.integers(0, 2**63 - 1))
    @unhurried
    def test_work_comes_back_with_its_bits_its_rows_and_the_time_that_is_left(self, work: Work, batch: int) -> None:
        later = NOW + 5
        number, back = read_work(whole(work_frame(batch, work, now=NOW)), now=later)
        assert (number, back.rows) == (batch, work.rows)
        assert_same(work.inputs, back.inputs)
        np.testing.assert_allclose([d - later for d in back.deadlines], [d - NOW for d in work.deadlines], atol=1e-5)

    @given(tensors(), st.lists(st.integers(0, 9)), st.integers(0, 10**9))
    @unhurried
    def test_an_answer_comes_back_with_its_bits(self, outputs: Tensors, dropped: list[int], micros: int) -> None:
        answer = Answer(outputs, tuple(dropped), micros * 1e-6)
        frame = whole(answer_frame(7, answer))
        head = read_head(frame, ResultHead)
        back = read_answer(head, frame)
        assert (head.id, frame.kind, back.dropped) == (7, Kind.RESULT, tuple(dropped))
        assert back.compute_s == pytest.approx(answer.compute_s, abs=2e-6)
        assert_same(outputs, back.outputs)

    @pytest.mark.parametrize("datatype", sorted(DATATYPES))
    @pytest.mark.parametrize("shape", [(), (0,), (1, 0, 2), (3, 2)])
    def test_every_datatype_in_every_sort_of_shape(self, datatype: str, shape: tuple[int, ...]) -> None:
        if datatype == "BYTES":
            some = np.empty(shape, dtype=object)
            some[...] = b"\0\xff"
        else:
            some = np.ones(shape, DATATYPES[datatype].dtype)
        frame = whole(answer_frame(1, Answer((Tensor("t", datatype, some),))))
        assert_same((Tensor("t", datatype, some),), read_answer(read_head(frame, ResultHead), frame).outputs)

    def test_a_view_that_is_not_contiguous_is_sent_as_what_it_shows(self) -> None:
        big = np.arange(4 * COPY_BELOW_BYTES, dtype="<f4").reshape(4, -1)
        for view in (big[:, ::2], big.T, big[1:2], big[:, :3]):
            frame = whole(answer_frame(1, Answer((Tensor("t", "FP32", view),))))
            (back,) = read_answer(read_head(frame, ResultHead), frame).outputs
            np.testing.assert_array_equal(back.array, view)

    def test_a_large_tensor_is_not_copied_into_its_frame(self) -> None:
        large = np.zeros(COPY_BELOW_BYTES, np.float32)
        raw = work_frame(1, Work((Tensor("x", "FP32", large),), (1,), (NOW,)), now=NOW)[-1]
        assert np.shares_memory(np.frombuffer(raw, np.uint8), large)

    def test_every_tensor_starts_at_a_place_where_it_can_be_used(self) -> None:
        three = tuple(
            Tensor(name, "FP64", np.full(size, size, np.float64)) for name, size in [("a", 1), ("b", 3), ("c", 9)]
        )
        frame = whole(answer_frame(1, Answer(three)))
        first = np.frombuffer(frame.payload, np.uint8).ctypes.data
        for tensor in read_answer(read_head(frame, ResultHead), frame).outputs:
            assert padding(tensor.array.ctypes.data - first) == 0

    def test_a_deadline_that_has_just_passed_leaves_a_microsecond(self) -> None:
        work = Work((Tensor("x", "INT8", np.zeros(1, np.int8)),), (1,), (NOW - 5,))
        assert read_work(whole(work_frame(1, work, now=NOW)), now=NOW)[1].deadlines == pytest.approx((NOW + 1e-6,))


class TestErrors:
    @pytest.mark.parametrize("error", [ReplicaUnavailable, ReplicaLost, ModelFailed, InvalidAnswer, Internal])
    def test_an_error_keeps_its_class_and_text(self, error: type[RequestError]) -> None:
        back = error_from_wire(read_head(read_frame(error_frame(3, error("so")), max_frame_bytes=LIMIT), ErrorHead))
        assert (type(back), back.message) == (error, "so")

    def test_an_unknown_code_is_an_internal_error(self) -> None:
        assert type(error_from_wire(ErrorHead(1, "from_the_future", "?"))) is Internal

    def test_a_replica_cannot_put_the_blame_on_the_caller(self) -> None:
        assert type(error_from_wire(ErrorHead(1, InvalidRequest.code, "?"))) is Internal

    def test_a_text_of_any_length_and_content_fits_a_frame(self) -> None:
        head = read_head(read_frame(error_frame(1, ModelFailed("\udc80ä" * 10**6)), max_frame_bytes=LIMIT), ErrorHead)
        assert head.message.startswith("\\udc80ä")
        assert len(head.message) < 10 * ERROR_TEXT_MAX

    @pytest.mark.parametrize(("requests", "blamed"), [(1, PayloadTooLarge), (2, ModelFailed)])
    def test_an_answer_too_large_for_a_frame_is_its_caller_s_doing_once_it_is_known_whose(
        self, requests: int, blamed: type[RequestError]
    ) -> None:
        answer = Answer((Tensor("y", "FP32", np.zeros(1000, np.float32)),))
        fitting = whole(outcome_frame(1, answer, requests=requests, max_frame_bytes=5000))
        assert fitting.kind == Kind.RESULT
        frame = whole(outcome_frame(1, answer, requests=requests, max_frame_bytes=4000))
        error = error_from_wire(read_head(frame, ErrorHead))
        assert type(error) is blamed
        assert re.search(r"the answer needs 4\d\d\d bytes .* at most 4000", error.message)

    async def test_who_asks_for_too_much_is_told_and_the_neighbours_get_their_answers(self, clock: FakeClock) -> None:
        def over_the_wire(work: Work) -> Answer | RequestError:
            frame = whole(outcome_frame(1, doubled(work), requests=len(work.rows), max_frame_bytes=1000))
            if frame.kind == Kind.ERROR:
                return error_from_wire(read_head(frame, ErrorHead))
            return read_answer(read_head(frame, ResultHead), frame)

        limits = LaneLimits(max_batch_rows=1000)
        lane = Lane("m@v1", DOUBLE, finite=True, limits=limits, clock=clock, deadlines=Deadlines(clock))
        requests = [request_of(0), request_of(1), request_of(*range(200)), request_of(3)]
        replica = AnsweringReplica(over_the_wire, on_change=lane.pump)
        lane.attach(replica)
        sent = [lane.submit(request, clock.now + 10) for request in requests]
        outcomes = await asyncio.gather(*(pending.answer for pending in sent), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [tuple, tuple, PayloadTooLarge, tuple]
        assert len(replica.sent[1].work.rows) == 3, "they shared a batch"


def sample_work() -> bytes:
    words = np.array([[b"a"], [b"bc"]], dtype=object)
    work = Work(
        (Tensor("x", "FP32", np.ones((2, 3), np.float32)), Tensor("s", "BYTES", words)), (1, 1), (NOW + 1, NOW + 2)
    )
    return b"".join(work_frame(9, work, now=NOW))


def sample_answer() -> bytes:
    return b"".join(answer_frame(9, Answer((Tensor("y", "BF16", np.ones((2, 3), np.uint16)),), (1,), 0.5)))


class TestDamage:
    @given(
        st.sampled_from([sample_work(), sample_answer(), small_frame(Kind.PING, PingHead(1, True, 2, 3))]),
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    )
    @settings(deadline=None, max_examples=500)
    def test_a_damaged_frame_is_read_or_refused(self, raw: bytes, damage: list[tuple[float, int]]) -> None:
        data = bytearray(raw)
        for place, value in damage:
            data[int(place * len(data))] = value
        with suppress(ProtocolError):
            read_anything(read_frame(data, max_frame_bytes=LIMIT))

    @given(
        st.sampled_from([Kind.INFER, Kind.RESULT, Kind.ERROR, Kind.PING]),
        st.binary(max_size=60),
        st.binary(max_size=99),
    )
    @settings(deadline=None)
    def test_any_header_with_any_payload_is_read_or_refused(self, kind: Kind, header: bytes, payload: bytes) -> None:
        with suppress(ProtocolError):
            read_anything(Frame(kind, header, memoryview(payload)))

    heads = st.builds(
        TensorHead,
        st.text(max_size=3),
        st.sampled_from([*sorted(DATATYPES), "FP8"]),
        st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
        st.integers(-2, 99) | st.integers(-(2**63), 2**63 - 1),
    )
    numbers = st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple)

    @given(numbers, numbers, st.lists(heads, max_size=3).map(tuple), st.binary(max_size=99))
    @settings(deadline=None, max_examples=300)
    def test_a_header_of_lies_is_read_or_refused(
        self, rows: tuple[int, ...], budgets: tuple[int, ...], heads: tuple[TensorHead, ...], payload: bytes
    ) -> None:
        header = msgspec.msgpack.encode(InferHead(1, rows, budgets, heads))
        with suppress(ProtocolError):
            _, work = read_work(Frame(Kind.INFER, header, memoryview(payload)), now=NOW)
            assert len(work.rows) == len(work.deadlines) >= 1
            assert len(work.rows) == 1 or all(tensor.shape[0] == sum(work.rows) for tensor in work.inputs)

    @pytest.mark.parametrize(
        ("header", "text"),
        [
            (b"\xc1", "can't be read"),
            (b"\x92\x01\xa1\xff", "can't be read"),
            (b"\x91" * 100_000, "can't be read"),
            (b"\x94" + b"\x91" * 100_000, "can't be read"),
        ],
        ids=["no msgpack", "no UTF-8", "nested for ever", "nested inside"],
    )
    def test_a_header_that_is_none_is_refused(self, header: bytes, text: str) -> None:
        for head in (InferHead, ResultHead, ErrorHead, PingHead):
            with pytest.raises(ProtocolError, match=text):
                read_head(Frame(Kind.INFER, header, memoryview(b"")), head)  # type: ignore[type-var]

    @pytest.mark.parametrize(
        ("rows", "budgets", "shape"),
        [
            ((), (), (2,)),
            ((1, 1), (1,), (2,)),
            ((-1, 3), (1, 1), (2,)),
            ((1, 2), (1, 1), (2,)),
            ((0, 0), (1, 1), ()),
        ],
        ids=["no request", "a budget short", "negative", "other rows than the tensors", "no first dimension"],
    )
    def test_requests_that_do_not_fit_their_tensors_are_refused(
        self, rows: tuple[int, ...], budgets: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        raw = bytes(int(np.prod(shape)))
        header = msgspec.msgpack.encode(InferHead(1, rows, budgets, (TensorHead("x", "INT8", shape, len(raw)),)))
        with pytest.raises(ProtocolError, match="an InferHead whose"):
            read_work(Frame(Kind.INFER, header, memoryview(raw)), now=NOW)

    @pytest.mark.parametrize(
        ("head", "payload", "text"),
        [
            (TensorHead("x", "FP8", (1,), 1), b"1", "'x' has datatype 'FP8'"),
            (TensorHead("x", "INT8", (-1,), 1), b"1", r"shape \[-1\]"),
            (TensorHead("x", "INT8", (2,), 1), b"1", r"1 bytes for INT8 \[2\]"),
            (TensorHead("x", "INT8", (2,), 2), b"1", "reaches beyond its frame"),
            (TensorHead("x", "INT8", (2,), -2), b"1", "reaches beyond its frame"),
            (TensorHead("x", "INT8", (1,), 1), b"12", "1 bytes behind the last tensor"),
            (TensorHead("x", "BYTES", (1,), 5), b"\2\0\0\0a", "cut short"),
            (TensorHead("x", "FP64", (2**62, 0), 0), b"", "'x'"),
        ],
    )
    def test_a_tensor_that_is_not_as_its_head_says_is_refused(
        self, head: TensorHead, payload: bytes, text: str
    ) -> None:
        with pytest.raises(ProtocolError, match=text):
            read_answer(ResultHead(1, (head,)), Frame(Kind.RESULT, b"", memoryview(payload)))


def read_anything(frame: Frame) -> None:
    if frame.kind == Kind.INFER:
        read_work(frame, now=NOW)
    elif frame.kind == Kind.RESULT:
        read_answer(read_head(frame, ResultHead), frame)
    elif frame.kind == Kind.ERROR:
        read_head(frame, ErrorHead)
    else:
        read_head(frame, PingHead)
