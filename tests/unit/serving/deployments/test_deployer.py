"""What Serve is asked for versions comes one after the other, whoever gives up."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from ray import serve as ray_serve

from models.manifest import ModelVersion
from serving.deployments import deployer
from serving.deployments.deployer import ServeDeployer
from serving.errors import LoadFailed
from serving.model_settings import ModelSettings
from serving.settings import Settings

NAME = ModelVersion("digits", "v2")
MODEL = ModelSettings(name="digits", versions=("v2",))


class FakeServe:
    """What is in Serve: a deployment takes until ``go_on``, and two threads at once are too many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.asked: list[str] = []
        self.applications: set[str] = set()
        self._alone = threading.Lock()
        monkeypatch.setattr(deployer, "application_status", self._status)
        monkeypatch.setattr(ray_serve, "run_many", self._run_many)
        monkeypatch.setattr(ray_serve, "delete", self._delete)

    def _status(self, application: str) -> tuple[str, str]:
        with self._only_one("status"):
            return ("RUNNING" if application in self.applications else "NOT_STARTED"), ""

    def _run_many(self, targets: list[ray_serve.RunTarget], **_: bool) -> None:
        with self._only_one("run"):
            self.begun.set()
            self.go_on.wait(10.0)
            self.applications |= {target.name for target in targets}

    def _delete(self, application: str, *, _blocking: bool) -> None:
        with self._only_one("delete"):
            self.applications.discard(application)

    def _only_one(self, what: str) -> threading.Lock:
        self.asked.append(what)
        if self._alone.locked():
            raise RuntimeError("a module isn't registered")
        return self._alone


async def test_a_deployment_that_is_given_up_is_done_before_the_version_is_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve = FakeServe(monkeypatch)
    deploys = ServeDeployer(Settings(), "run")
    deploying = asyncio.create_task(deploys.deploy(NAME, MODEL))
    await asyncio.to_thread(serve.begun.wait, 10.0)
    deploying.cancel()
    with suppress(asyncio.CancelledError):
        await deploying
    deleting = asyncio.create_task(deploys.delete(NAME))
    await asyncio.sleep(0.05)
    assert serve.asked == ["status", "run"]
    serve.go_on.set()
    await deleting
    assert (serve.asked, serve.applications) == (["status", "run", "delete"], set())


async def test_what_serve_fails_at_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(application: str) -> tuple[str, str]:
        raise RuntimeError("no controller")

    FakeServe(monkeypatch)
    monkeypatch.setattr(deployer, "application_status", fail)
    with pytest.raises(LoadFailed, match="Ray Serve failed: RuntimeError: no controller"):
        await ServeDeployer(Settings(), "run").deploy(NAME, MODEL)
