"""Whatever is appended, kept, dropped and reopened in whatever order: the log folds to the same."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.rollout.event_log import EventLog, open_log
from tests.event_logs import PostgresPlace
from tests.postgres_server import PostgresServer

# Numbers are counted back from the newest event: 0 is the newest itself.
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(max_size=20)),
        st.tuples(st.just("snapshot"), st.integers(0, 8)),
        st.tuples(st.just("compact"), st.integers(-2, 8)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=30,
)

Operations = list[tuple[str, bytes | int | None]]


def fold(state: bytes, payloads: Iterable[bytes]) -> bytes:
    """The order matters, and so does every event."""
    for payload in payloads:
        state = hashlib.sha256(state + b"," + payload).digest()
    return state


def check(log: EventLog, payloads: list[bytes]) -> None:
    snapshot = log.latest_snapshot()
    start, state = (snapshot.seq, snapshot.state) if snapshot else (0, b"")
    assert fold(state, (event.payload for event in log.read(after=start))) == fold(b"", payloads)
    kept = [event.payload for event in log.read()]
    assert kept == payloads[len(payloads) - len(kept) :]
    assert log.head()[0] == len(payloads)


def play(url: str, operations: Operations) -> None:
    log = open_log(url)
    payloads: list[bytes] = []
    oldest, snapshots = 1, set[int]()
    for operation, value in operations:
        if isinstance(value, bytes):
            payloads.append(value)
            assert log.append("any", value, wall=0.1 * len(payloads)).seq == len(payloads)
        elif operation == "reopen":
            log.close()
            log = open_log(url)
        elif isinstance(value, int) and operation == "snapshot":
            seq = len(payloads) - value
            if oldest <= seq:  # an older one isn't there any more
                log.snapshot(seq, fold(b"", payloads[:seq]))
                snapshots.add(seq)
        elif isinstance(value, int):
            keep_from = len(payloads) - value
            base = max((seq for seq in snapshots if seq < keep_from), default=0)
            assert log.compact(keep_from) == max(0, base + 1 - oldest)
            oldest = max(oldest, base + 1)
            snapshots = {seq for seq in snapshots if seq >= base}
        check(log, payloads)
    log.close()


@given(OPERATIONS)
@settings(max_examples=60, deadline=None)
def test_any_order_of_operations_folds_to_the_same_in_sqlite(operations: Operations) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play(str(Path(folder) / "events.db"), operations)


@pytest.mark.integration
@given(operations=OPERATIONS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_operations_folds_to_the_same_in_postgresql(
    postgres: PostgresServer, operations: Operations
) -> None:
    play(PostgresPlace(postgres).url, operations)


def test_the_check_notices_a_lost_event(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "events.db"))
    log.append("any", b"1", wall=0.0)
    with pytest.raises(AssertionError):
        check(log, [b"1", b"2"])
    log.close()
