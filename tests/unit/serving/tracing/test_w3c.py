"""``traceparent`` and ``tracestate`` as the recommendation has them: what is valid is read, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.tracing.w3c import (
    STATE_MAX_CHARACTERS,
    STATE_MEMBERS_MAX,
    TRACEPARENT_MAX_BYTES,
    TraceParent,
    format_traceparent,
    parse_traceparent,
    parse_tracestate,
)

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0xB7AD6B7169203331
TRACE_TEXT = b"0af7651916cd43dd8448eb211c80319c"
SPAN_TEXT = b"b7ad6b7169203331"

ids = st.integers(1, 2**128 - 1)
span_ids = st.integers(1, 2**64 - 1)


@given(trace_id=ids, span_id=span_ids, sampled=st.booleans())
def test_what_is_written_is_read_again(trace_id: int, span_id: int, sampled: bool) -> None:
    parent = TraceParent(trace_id, span_id, sampled)
    raw = format_traceparent(parent)
    assert len(raw) == 55
    assert parse_traceparent(raw) == parent


@given(flags=st.integers(0, 255))
def test_only_the_last_bit_of_the_flags_says_that_it_is_sampled(flags: int) -> None:
    parent = parse_traceparent(b"00-%s-%s-%02x" % (TRACE_TEXT, SPAN_TEXT, flags))
    assert parent == TraceParent(TRACE, SPAN, bool(flags & 1))


@given(version=st.integers(1, 254), rest=st.binary(max_size=300))
def test_of_a_later_version_what_is_known_is_read(version: int, rest: bytes) -> None:
    head = b"%02x-%s-%s-01" % (version, TRACE_TEXT, SPAN_TEXT)
    assert parse_traceparent(head) == TraceParent(TRACE, SPAN, sampled=True)
    longer = parse_traceparent(head + b"-" + rest.strip())
    assert longer == TraceParent(TRACE, SPAN, sampled=True)
    assert parse_traceparent(head + b"x") is None


@given(raw=st.binary(max_size=200))
def test_anything_else_is_as_if_it_were_not_there(raw: bytes) -> None:
    parent = parse_traceparent(raw)
    if parent is not None:
        assert raw.strip(b" \t")[3:52] == format_traceparent(parent)[3:52]


@given(place=st.integers(0, 54), sign=st.integers(0, 255))
def test_one_wrong_sign_makes_all_of_it_wrong(place: int, sign: int) -> None:
    raw = bytearray(b"00-%s-%s-01" % (TRACE_TEXT, SPAN_TEXT))
    raw[place] = sign
    at_dash = place in (2, 35, 52)
    valid = sign == ord("-") if at_dash else bytes([sign]) in b"0123456789abcdef"
    parent = parse_traceparent(bytes(raw))
    if not valid:
        assert parent is None
    elif bytes(raw[:2]) != b"ff":
        assert parent is not None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"00",
        b"ff-%s-%s-01" % (TRACE_TEXT, SPAN_TEXT),
        b"00-%s-%s-01-extra" % (TRACE_TEXT, SPAN_TEXT),
        b"00-%s-%s-01-" % (TRACE_TEXT, SPAN_TEXT),
        b"00-%s-%s-1" % (TRACE_TEXT, SPAN_TEXT),
        b"00-%s-%s" % (TRACE_TEXT, SPAN_TEXT),
        b"00-%s-%s-01" % (TRACE_TEXT.upper(), SPAN_TEXT),
        b"00-%s-%s-01" % (b"0" * 32, SPAN_TEXT),
        b"00-%s-%s-01" % (TRACE_TEXT, b"0" * 16),
        b"00_%s_%s_01" % (TRACE_TEXT, SPAN_TEXT),
        b"00-%s-%s-01\n" % (TRACE_TEXT, SPAN_TEXT),
        b"01-%s-%s-01-%s" % (TRACE_TEXT, SPAN_TEXT, b"x" * TRACEPARENT_MAX_BYTES),
        b"00-%s-%s-01, 00-%s-%s-01" % (TRACE_TEXT, SPAN_TEXT, TRACE_TEXT, SPAN_TEXT),  # the header came twice
    ],
)
def test_what_is_not_valid_begins_anew(raw: bytes) -> None:
    assert parse_traceparent(raw) is None


def test_space_around_it_does_not_count() -> None:
    assert parse_traceparent(b" \t00-%s-%s-00 " % (TRACE_TEXT, SPAN_TEXT)) == TraceParent(TRACE, SPAN, sampled=False)


KEYS = st.from_regex(r"\A([a-z][a-z0-9_\-*/]{0,20}|[a-z0-9][a-z0-9_\-*/]{0,20}@[a-z][a-z0-9_\-*/]{0,13})\Z")
VALUES = st.from_regex(r"\A[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,20}[\x21-\x2b\x2d-\x3c\x3e-\x7e]\Z").map(str.lstrip)
MEMBERS = st.lists(st.tuples(KEYS, VALUES), max_size=8, unique_by=lambda member: member[0])


@given(members=MEMBERS, gap=st.sampled_from([",", " ,", ", ", "\t,\t", ",,", ", ,"]))
def test_members_keep_their_order_and_empty_ones_are_left_out(members: list[tuple[str, str]], gap: str) -> None:
    raw = gap.join(f"{key}={value}" for key, value in members)
    assert parse_tracestate(raw.encode()) == tuple(members)


@pytest.mark.parametrize(
    "raw",
    [
        b"a",
        b"=b",
        b"a=",
        b"A=b",
        b"a=b=c",
        b"a =b",
        b"a@b@c=d",
        b"a@1b=c",
        b"a=b,a=c",
        "a=ä".encode(),
        b"a=b\x00",
        b"good=1,b\nad=2",
        ",".join(f"k{number}=1" for number in range(STATE_MEMBERS_MAX + 1)).encode(),
        b"a" * 257 + b"=b",
        b"a=" + b"b" * 257,
    ],
)
def test_one_wrong_member_makes_all_of_the_state_wrong(raw: bytes) -> None:
    assert parse_tracestate(raw) == ()


@given(sizes=st.lists(st.integers(1, 256), max_size=STATE_MEMBERS_MAX))
def test_a_state_that_is_too_long_loses_large_members_and_then_the_last_ones(sizes: list[int]) -> None:
    members = [(f"k{number}", "v" * size) for number, size in enumerate(sizes)]
    kept = parse_tracestate(",".join(f"{key}={value}" for key, value in members).encode())
    assert len(",".join(f"{key}={value}" for key, value in kept)) <= STATE_MAX_CHARACTERS
    assert [member for member in members if member in kept] == list(kept)
    small = [member for member in members if len("=".join(member)) <= 128]
    if len(",".join("=".join(member) for member in small)) <= STATE_MAX_CHARACTERS:
        assert set(small) <= set(kept)
