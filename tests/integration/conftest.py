"""One real system for the whole session, and the story of what went wrong in it."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.system import System, in_good_order
from tests.otlp import FakeOtlp, collecting

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def running_system(zoo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Started with ``holdfast up`` and stopped with Ctrl-C, after which nothing of it may be left."""
    store = tmp_path_factory.mktemp("store") / "models"
    shutil.copytree(zoo_store, store)  # tests publish to it, and spoil what they published
    system = System(store)
    with in_good_order(system):
        yield system


@pytest.fixture
def system(running_system: System) -> System:
    """The session's system as it was at the start, whatever the test before did to it."""
    running_system.restore()
    return running_system


@pytest.fixture(scope="session")
def collector() -> Iterator[FakeOtlp]:
    """Where the spans of `observed` go."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="session")
def observed(zoo_store: Path, collector: FakeOtlp) -> Iterator[System]:
    """A system that tells all there is to tell of its requests, and in which only a fallback helps."""
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
    with in_good_order(system):
        yield system


@pytest.fixture(scope="session")
def unprotected(zoo_store: Path) -> Iterator[System]:
    """A system with one gateway that obeys faults. `digits-lite` has two replicas and nothing that protects a request,
    and shadows `digits`."""
    off = {name: {"enabled": False} for name in ("admission", "breaker", "ejection", "retry")}
    models: list[dict[str, Any]] = [
        {"name": "digits-lite", "versions": ["v1"], "replicas": 2, "timeout_ms": 3000, **off},
        {"name": "digits", "versions": ["v2"], "shadow": {"model": "digits-lite", "share": 1.0, "silent_after_s": 1}},
    ]
    system = System(zoo_store, models=models, gateways=1)
    system.args["faults"] = True
    with in_good_order(system):
        yield system


@pytest.fixture(scope="session")
def rolling(zoo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system for rollouts, with a store of its own. Its settings say v1, whatever a rollout makes of it."""
    store = tmp_path_factory.mktemp("store") / "models"
    shutil.copytree(zoo_store, store)
    system = System(store, models=[{"name": "digits", "versions": ["v1"]}])
    system.args["faults"] = True
    with in_good_order(system):
        yield system


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the tests that start systems of their own: two at once would be slow. So one of xdist's workers has all."""
    items.sort(key=lambda item: "running_system" in getattr(item, "fixturenames", ()))
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("systems"))


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
