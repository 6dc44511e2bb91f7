"""The snapshot is an API: its keys are those of docs/api.md, and whoever asked can read it back."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from serving.live.snapshot import Snapshot
from tests.snapshots import EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_it_can_be_read_back_by_whoever_asked(example: Callable[[], Snapshot]) -> None:
    told = example()
    assert msgspec.json.decode(msgspec.json.encode(told), type=Snapshot) == told


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_series_are_equally_long_and_versions_share_all_requests(example: Callable[[], Snapshot]) -> None:
    for model in example().models:
        assert {len(getattr(model.series, name)) for name in model.series.__struct_fields__} == {300}
        assert sum(version.weight for version in model.versions) in (0.0, 1.0)
