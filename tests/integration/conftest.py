"""Real systems that tests share, one at a time, and the story of what went wrong in them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.system import System, in_good_order
from tests.otlp import FakeOtlp, collecting


class Stage:
    """Has one system at a time: whoever wants another one has the last one end first, in good order."""

    def __init__(self) -> None:
        self._name = ""
        self._system: System | None = None
        self._ending = contextlib.ExitStack()

    def system(self, name: str, make: Callable[[], System]) -> System:
        """The one of this name, made and started unless it is there."""
        if self._system is None or name != self._name:
            self.leave()
            system = make()
            self._ending.enter_context(in_good_order(system))
            self._name, self._system = name, system
        return self._system

    def leave(self) -> None:
        self._system = None
        self._ending.close()


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    found = Stage()
    yield found
    found.leave()


@pytest.fixture(scope="session")
def collector() -> Iterator[FakeOtlp]:
    """Where the spans of `observed` go."""
    with collecting() as found:
        yield found


# Each of these is shared by all tests that want it, which stand together (see SHARED).


@pytest.fixture
def observed(stage: Stage, zoo_store: Path, collector: FakeOtlp) -> System:
    """A system that tells all there is to tell of its requests, and in which only a fallback helps."""

    def make() -> System:
        model = {
            "name": "digits",
            "versions": ["v1", "v2"],
            "stable": "v2",
            "fallback": [{"type": "version", "version": "v1"}],
            "retry": {"enabled": False},
            "breaker": {"enabled": False},
        }
        system = System(zoo_store, models=[model])
        system.args["faults"] = True
        system.args["log_format"] = "json"
        system.args["access_log"] = 1
        system.args["tracing"] = {"endpoint": collector.endpoint, "sample_ratio": 0, "service_name": "reef"}
        return system

    return stage.system("observed", make)


@pytest.fixture
def unprotected(stage: Stage, zoo_store: Path) -> System:
    """A system with one gateway that obeys faults. `digits-lite` has two replicas and nothing that protects a request,
    and shadows `digits`."""

    def make() -> System:
        off = {name: {"enabled": False} for name in ("admission", "breaker", "ejection", "retry")}
        shadow = {"model": "digits-lite", "share": 1.0, "silent_after_s": 1}
        models: list[dict[str, Any]] = [
            {"name": "digits-lite", "versions": ["v1"], "replicas": 2, "timeout_ms": 3000, **off},
            {"name": "digits", "versions": ["v2"], "shadow": shadow},
        ]
        system = System(zoo_store, models=models, gateways=1)
        system.args["faults"] = True
        return system

    return stage.system("unprotected", make)


@pytest.fixture
def rolling(stage: Stage, zoo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system for rollouts, with a store of its own. Its settings say v1, whatever a rollout makes of it."""

    def make() -> System:
        system = System(copied(zoo_store, tmp_path_factory), models=[{"name": "digits", "versions": ["v1"]}])
        system.args["faults"] = True
        return system

    return stage.system("rolling", make)


@pytest.fixture
def system(stage: Stage, zoo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    """The example models as people have them, as they were at the start, whatever the test before did to them."""
    found = stage.system("system", lambda: System(copied(zoo_store, tmp_path_factory)))
    found.restore()
    return found


def copied(store: Path, folders: pytest.TempPathFactory) -> Path:
    """For tests that publish to it, or spoil what is in it."""
    copy = folders.mktemp("store") / "models"
    shutil.copytree(store, copy)
    return copy


SHARED = ("observed", "unprotected", "rolling", "system")
"""The order in which tests come; before them those that start systems of their own, or none."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One system after the other."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    wanted = getattr(item, "fixturenames", ())
    shared = [index for index, name in enumerate(SHARED, 1) if name in wanted and "stage" in wanted]
    return shared[0] if shared else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, System):
                report.sections.append((f"the system in {value.folder}", value.story()))
                break
    return report
