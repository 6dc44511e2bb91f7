"""What a request is known by: the caller's own id where it may be one, else one that no other request has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.tracing.context import REQUEST_ID, REQUEST_ID_MAX, RequestContext, RequestContexts, may_be_id
from serving.tracing.sampling import ParentBased
from serving.tracing.trace import Trace
from serving.tracing.w3c import TRACEPARENT, TRACERESPONSE, TRACESTATE, parse_traceparent
from tests.fakes import FakeClock

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0%d"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def sampling(clock: FakeClock, *, ratio: float = 0.0, chance: float = 0.5) -> ParentBased:
    return ParentBased(
        ratio,
        max_per_s=1000,
        one_too_many=lambda: None,
        clock=clock,
        random=lambda: chance,
        random_bits=lambda bits: (1 << bits) - 1,
    )


def test_a_header_names_the_request_and_the_answer_repeats_it() -> None:
    context = RequestContexts("gw").begin({REQUEST_ID: b"order 7/a"})
    context.adopt("from the body")
    assert context.headers() == [(b"x-request-id", b"order 7/a")]


def test_without_a_header_the_body_names_it() -> None:
    context = RequestContexts("gw").begin({})
    context.adopt("a kelp")
    assert context.headers() == [(b"x-request-id", b"a kelp")]


def test_without_either_every_request_has_a_name_of_its_own() -> None:
    contexts = RequestContexts("0a1b")
    names = [contexts.begin({}).request_id for _ in range(20)]
    assert len(set(names)) == 20
    assert all(name.startswith("0a1b-") and may_be_id(name) for name in names)


@pytest.mark.parametrize(
    "bad", [b"", b" ", b"a\x00b", b"a\tb", b"\xff", b"a" * (REQUEST_ID_MAX + 1), b"a\x7f", "ä".encode(), b"a\r\nb: c"]
)
def test_what_may_not_be_an_id_is_replaced(bad: bytes) -> None:
    context = RequestContexts("gw").begin({REQUEST_ID: bad})
    context.adopt(bad.decode("latin-1"))
    assert context.request_id == "gw-1"


@given(text=st.text(max_size=200))
def test_an_id_fits_into_a_header_and_a_line_as_it_is(text: str) -> None:
    context = RequestContexts("gw").begin({})
    context.adopt(text)
    ((_, value),) = context.headers()
    assert 0 < len(value) <= REQUEST_ID_MAX
    assert all(0x20 <= byte < 0x7F for byte in value)
    assert value.strip() == value


def test_a_request_without_tracing_still_knows_its_callers_trace() -> None:
    context = RequestContexts("gw").begin({TRACEPARENT: PARENT % 1})
    assert (context.trace, context.trace_id) == (None, TRACE_ID)
    assert RequestContexts("gw").begin({TRACEPARENT: b"nonsense"}).trace_id == ""
    assert RequestContexts("gw").begin({}).trace_id == ""


def begun(clock: FakeClock, headers: dict[bytes, bytes], **more: float) -> tuple[RequestContext, Trace | None]:
    context = RequestContexts("gw", sampling(clock, **more)).begin(headers)
    return context, context.trace


@pytest.mark.parametrize(("flag", "sampled"), [(0, False), (1, True)])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_callers_word_on_sampling_counts(clock: FakeClock, flag: int, sampled: bool, ratio: float) -> None:
    context, trace = begun(clock, {TRACEPARENT: PARENT % flag, TRACESTATE: b"a=b"}, ratio=ratio)
    assert (trace is not None) == sampled
    assert context.trace_id == TRACE_ID
    if trace is not None:
        assert trace.parent == parse_traceparent(PARENT % 1)
        assert trace.state == b"a=b"


@pytest.mark.parametrize(("ratio", "chance", "sampled"), [(0.0, 0.0, False), (0.1, 0.09, True), (0.1, 0.1, False)])
def test_of_those_whose_caller_says_nothing_a_share_is_sampled(
    clock: FakeClock, ratio: float, chance: float, sampled: bool
) -> None:
    _, trace = begun(clock, {}, ratio=ratio, chance=chance)
    assert (trace is not None) == sampled


def test_a_trace_that_is_not_valid_begins_anew_without_its_state(clock: FakeClock) -> None:
    _, trace = begun(clock, {TRACEPARENT: b"00-" + b"0" * 52, TRACESTATE: b"a=b"}, ratio=1.0)
    assert trace is not None
    assert (trace.parent, trace.state, trace.trace_id) == (None, None, 2**128 - 1)


def test_the_answer_of_a_sampled_request_says_where_to_look(clock: FakeClock) -> None:
    context, trace = begun(clock, {TRACEPARENT: PARENT % 1})
    assert trace is not None
    assert dict(context.headers())[TRACERESPONSE] == f"00-{TRACE_ID}-ffffffffffffffff-01".encode()
    unsampled, _ = begun(clock, {TRACEPARENT: PARENT % 0})
    assert TRACERESPONSE not in dict(unsampled.headers())


def test_only_so_many_a_second_are_traced_whoever_wants_them_to_be(clock: FakeClock) -> None:
    refused: list[None] = []
    sampler = ParentBased(
        1.0,
        max_per_s=2,
        one_too_many=lambda: refused.append(None),
        clock=clock,
        random=lambda: 0.5,
        random_bits=lambda _: 1,
    )
    wanted: tuple[dict[bytes, bytes], ...] = ({}, {TRACEPARENT: PARENT % 1})
    assert [sampler.begin(headers) is not None for headers in wanted * 2] == [True, True, False, False]
    assert len(refused) == 2
    assert sampler.begin({TRACEPARENT: PARENT % 0}) is None
    assert len(refused) == 2  # this one didn't want to be
    clock.advance(1.0)
    assert [sampler.begin({}) is not None for _ in range(3)] == [True, True, False]
