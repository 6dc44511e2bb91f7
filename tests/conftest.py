from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeClock, run


@pytest.fixture
def clock() -> FakeClock:
    """An ``async def`` test with this runs on a loop whose time jumps instead of passing."""
    return FakeClock()


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A folder with a path short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        yield Path(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs ``async def`` tests; each fails if it leaves tasks behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in names}
    clock = arguments.get("clock")
    run(pyfuncitem.obj(**arguments), clock if isinstance(clock, FakeClock) else None)
    return True
