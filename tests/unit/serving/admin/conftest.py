"""A site whose settings a test chooses: ``site(token=b"...")``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site


@pytest.fixture
def site(clock: FakeClock, tmp_path: Path) -> Callable[..., Site]:
    from tests.unit.serving.ingress.conftest import Site

    def make(**settings: Any) -> Site:
        return Site(clock, tmp_path, **settings)

    return make
