from __future__ import annotations

import fcntl
import hashlib
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from models.registry import Registry
from tests.fakes import FakeClock, run

hypothesis.settings.register_profile("holdfast", deadline=None)  # a busy machine is no reason to fail
hypothesis.settings.load_profile("holdfast")

ZOO_SOURCES = ("models/zoo/*.py", "models/manifest.py", "models/quality.py", "models/publishing.py", "models/golden.py")


@pytest.fixture(scope="session")
def zoo_store(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all example models. It is made anew when the code that makes it changes."""
    from models.zoo.build import build

    root = pytestconfig.rootpath
    sources = hashlib.sha256()
    for pattern in ZOO_SOURCES:
        for source in sorted(root.glob(pattern)):
            sources.update(source.read_bytes())
    store = root / ".holdfast" / "test-models" / sources.hexdigest()[:16]
    store.mkdir(parents=True, exist_ok=True)
    with (store.parent / "making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)  # another of xdist's workers may want it, too
        build(Registry(store), tmp_path_factory.mktemp("zoo"), say=lambda _line: None)
    return store


@pytest.fixture
def clock() -> FakeClock:
    """An ``async def`` test with this runs on a loop whose time jumps instead of passing."""
    return FakeClock()


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A folder with a path short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        yield Path(folder)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Long bytes are named by their length: no id then holds what may differ from one worker to the other."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 32 else None


class OneHasTheSystems(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One of xdist's workers has all tests that start systems: two at once would be slow. The others go by file."""

    def _split_scope(self, nodeid: str) -> str:
        return "systems" if nodeid.startswith("tests/integration/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneHasTheSystems:
    return OneHasTheSystems(config, log)


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
