"""When a version counts as deployed, and what is never deployed a second time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models.manifest import ModelVersion
from serving.deployments import deployer
from serving.deployments.deployer import ApplicationStatus, ServeDeployer
from serving.deployments.run import Run
from serving.errors import LoadFailed
from serving.model_settings import ModelSettings
from serving.settings import Settings

NAME = ModelVersion("m", "v1")
PLAIN = ModelSettings(name="m", versions=("v1",), replicas=2)
BOUNDED = ModelSettings(name="m", versions=("v1",), replicas=2, max_replicas_per_node=1)
NOT_STARTED = ApplicationStatus("NOT_STARTED")
PLACED = ApplicationStatus("DEPLOYING", "", 1)


class Quick(ServeDeployer):
    """Serve says what the test wants; the last of it again and again."""

    POLL_S = 0.001
    PLACED_TIMEOUT_S = 0.05
    READY_TIMEOUT_S = 0.2

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *said: ApplicationStatus) -> None:
        super().__init__(Settings(), Run("/run", "secret"))
        self.started = 0
        self._said: Iterator[ApplicationStatus] = iter(said)
        self._last = NOT_STARTED
        monkeypatch.setattr(deployer, "application_status", self._status)

    def _status(self, application: str) -> ApplicationStatus:
        assert application == "m@v1"
        self._last = next(self._said, self._last)
        return self._last

    def _start(self, name: ModelVersion, settings: ModelSettings) -> None:
        self.started += 1


async def test_a_version_is_started_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Quick(monkeypatch, NOT_STARTED, PLACED, ApplicationStatus("RUNNING", "", 2))
    await serve.deploy(NAME, PLAIN)
    assert serve.started == 1


async def test_one_that_has_lost_replicas_with_a_node_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Quick(monkeypatch, ApplicationStatus("UNHEALTHY", "a replica died", 1))
    await serve.deploy(NAME, BOUNDED)
    assert serve.started == 0


async def test_one_that_has_lost_all_of_them_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Quick(monkeypatch, ApplicationStatus("UNHEALTHY"), ApplicationStatus("RUNNING", "", 2))
    await serve.deploy(NAME, BOUNDED)
    assert serve.started == 1


async def test_with_too_few_nodes_it_is_served_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    await Quick(monkeypatch, NOT_STARTED, PLACED).deploy(NAME, BOUNDED)


async def test_replicas_that_could_be_anywhere_are_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadFailed, match=r"weren't ready within 0\.2 s"):
        await Quick(monkeypatch, NOT_STARTED, PLACED).deploy(NAME, PLAIN)
    with pytest.raises(LoadFailed, match="weren't ready"):
        await Quick(monkeypatch, NOT_STARTED, ApplicationStatus("DEPLOYING")).deploy(NAME, BOUNDED)


@pytest.mark.parametrize("state", ["DEPLOY_FAILED", "UNHEALTHY"])
async def test_why_it_failed_is_told(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = ApplicationStatus(state, "Traceback\nmodels.errors.ArtifactCorrupt: m@v1: 'm.onnx' is missing")
    with pytest.raises(LoadFailed, match="ArtifactCorrupt: m@v1"):
        await Quick(monkeypatch, NOT_STARTED, failed).deploy(NAME, PLAIN)
