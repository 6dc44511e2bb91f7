from __future__ import annotations

import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rollout.event_log import (
    Event,
    LogCorrupt,
    event_from_row,
    hash_of,
    next_event,
    snapshot_from_row,
    snapshot_of,
    verified,
)

EVENT = next_event((41, "ab" * 32), "decided", b'{"weight":0.25}', wall=1700000000.25, cause=40)


def test_the_hash_of_an_event_stays_what_it_is() -> None:
    """Logs outlive releases: if this fails, every log that was ever written would be called corrupt."""
    assert EVENT.hash == "f3f35ce0136aa13c94472d1f5610ac5ee6cb775e42c55ec01534c8f27bac03d9"


def test_the_hash_of_a_snapshot_stays_what_it_is() -> None:
    assert (
        snapshot_of(41, "ab" * 32, b"state").hash == "3fd0461e0f313a5ec2ff7ee8243eb3b77d48146d6899d108422b2556ac246113"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", 43),
        ("wall", math.nextafter(EVENT.wall, math.inf)),
        ("kind", "decider"),
        ("payload", b'{"weight":0.26}'),
        ("cause", None),
        ("cause", 39),
        ("previous", "ba" * 32),
    ],
)
def test_every_field_is_in_the_hash(field: str, value: object) -> None:
    assert hash_of(msgspec.structs.replace(EVENT, **{field: value})) != EVENT.hash


@given(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5), st.integers(0, 10))
def test_no_two_events_hash_alike_because_their_fields_run_together(
    kind: str, previous: str, payload: bytes, cut: int
) -> None:
    one = Event(2, 0.0, kind, payload, None, previous, "")
    joined = kind + previous
    other = Event(2, 0.0, joined[:cut], payload, None, joined[cut:], "")
    assert (hash_of(one) == hash_of(other)) == (one == other)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_an_event_survives_its_row_and_json(wall: float) -> None:
    event = next_event((0, ""), "any", b"\xff", wall=wall)
    row = msgspec.structs.astuple(event)
    assert event_from_row(row) == event
    assert verified((0, ""), row) == event
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_minus_zero_is_zero_because_sqlite_keeps_no_sign_of_it() -> None:
    assert struct.pack(">d", next_event((0, ""), "any", b"", wall=-0.0).wall) == bytes(8)


@pytest.mark.parametrize("place", range(1, 7))
@pytest.mark.parametrize("value", [None, 7, 7.5, "seven", b"seven", "\udcff"])
def test_a_row_of_other_values_is_named_by_its_number(place: int, value: object) -> None:
    row = [*msgspec.structs.astuple(EVENT)]
    row[place] = value
    with pytest.raises(LogCorrupt, match="event 42: "):
        event_from_row(tuple(row))


def test_a_row_without_a_number_is_corrupt_all_the_same() -> None:
    row = ("forty-two", *msgspec.structs.astuple(EVENT)[1:])
    with pytest.raises(LogCorrupt, match="forty-two"):
        verified((41, "ab" * 32), row)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [None, 7, "seven", b"seven"])
def test_a_snapshot_of_other_values_is_corrupt(place: int, value: object) -> None:
    row = [*msgspec.structs.astuple(snapshot_of(41, "ab" * 32, b"state"))]
    row[place] = value
    with pytest.raises(LogCorrupt, match="snapshot"):
        snapshot_from_row(tuple(row))
