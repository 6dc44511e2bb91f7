"""Anyone may see that something went wrong, and nothing that a caller sent."""

from __future__ import annotations

from pathlib import Path

import msgspec

from serving.incidents.incident import Contents, Facts, KeptTensor
from serving.incidents.store import FILE, IncidentStore, Row
from serving.live.kept import NEWEST_MAX, newest_in
from serving.live.snapshot import Incidents

SECRET = "anna's"


def kept(number: int) -> Row:
    facts = Facts(
        wall=1000.0 + number,
        model="m",
        version="v2",
        outcome="degraded",
        failure="model_failed",
        fault=f"no good: {SECRET}",
        request_id=SECRET,
        seconds=0.1,
        waited_s=0.0,
        attempts=(),
        answered_by="m@v1",
        rollout="",
        trace_id=SECRET,
    )
    return Row(facts, Contents(inputs=(KeptTensor(name="x", datatype="BYTES", shape=(1,), raw=SECRET.encode()),)))


def test_the_newest_are_told_without_anything_that_a_caller_sent(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path, max_bytes=4 << 20, max_number=100)
    store.put_many([kept(number) for number in range(NEWEST_MAX + 3)])
    told = newest_in(store)
    store.close()
    assert told.kept == NEWEST_MAX + 3
    assert [line.id for line in told.newest] == list(range(NEWEST_MAX + 3, 3, -1))
    assert (told.newest[0].time, told.newest[0].failure, told.newest[0].answered_by) == (1010.0, "model_failed", "m@v1")
    assert SECRET.encode() not in msgspec.json.encode(told)


def test_a_store_that_is_not_there_or_can_not_be_read_has_none(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path, max_bytes=4 << 20, max_number=100)
    assert newest_in(store) == Incidents()
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    assert newest_in(store) == Incidents()
