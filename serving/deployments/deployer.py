"""Versions as Serve applications: deployed, deleted, and what Serve says of them.

Not here: which versions, and when (``serving.rollout``).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ray import serve

from models.manifest import ModelVersion
from serving.autoscaling import scaling
from serving.deployments.common import HEALTH_CHECKS, MODEL_DEPLOYMENT, QUIET, application_of
from serving.deployments.link import MembershipRouter
from serving.deployments.model import MODEL_DRAIN_S, ModelReplica
from serving.errors import LoadFailed
from serving.model_settings import ModelSettings
from serving.rollout.whole import whole
from serving.settings import Settings

log = logging.getLogger("holdfast")

T = TypeVar("T")


class ServeDeployer:
    """Deploys a version as a Serve application of its own, and deletes it."""

    READY_TIMEOUT_S = 120.0
    POLL_S = 0.1

    def __init__(self, settings: Settings, run_dir: str) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._one_at_a_time = asyncio.Lock()

    async def deploy(self, name: ModelVersion, settings: ModelSettings) -> None:
        application = application_of(name)
        if (await self._serve(application_status, application))[0] not in ("RUNNING", "DEPLOYING"):
            await self._serve(self._run, name, settings)
        try:
            async with asyncio.timeout(self.READY_TIMEOUT_S):
                while (found := await self._serve(application_status, application))[0] != "RUNNING":
                    if found[0] in ("DEPLOY_FAILED", "UNHEALTHY"):
                        raise LoadFailed(reason_in(found[1]))
                    await asyncio.sleep(self.POLL_S)
        except TimeoutError:
            raise LoadFailed(f"its replicas weren't ready within {self.READY_TIMEOUT_S:g} s") from None

    async def delete(self, name: ModelVersion) -> None:
        await self._serve(functools.partial(serve.delete, application_of(name), _blocking=False))

    async def _serve(self, call: Callable[..., T], *args: Any) -> T:
        """Ask Serve in a thread, one question at a time, and in the order in which they came.

        To deploy and even to tell a status, Serve marks a module of its own as pickled by value and takes the mark
        away again; of two threads that do so, one fails. So the next question waits also for one that nobody waits for
        any more: a version must not be deleted before it is deployed.
        """
        return await whole(self._asked(call, *args))

    async def _asked(self, call: Callable[..., T], *args: Any) -> T:
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(call, *args)
            except Exception as error:
                log.exception("Ray Serve failed")
                raise LoadFailed(f"Ray Serve failed: {type(error).__name__}: {error}") from None

    def _run(self, name: ModelVersion, settings: ModelSettings) -> None:
        application = model_deployment(settings).bind(self._settings, settings, name, self._run_dir)
        serve.run_many(
            [serve.RunTarget(application, name=application_of(name), route_prefix=None)],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )


def model_deployment(settings: ModelSettings) -> Any:
    """The deployment of a model's version."""
    return serve.deployment(
        ModelReplica,
        name=MODEL_DEPLOYMENT,
        max_ongoing_requests=1000,
        max_queued_requests=1000,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=MODEL_DRAIN_S,
        max_constructor_retry_count=2,
        logging_config=QUIET,
        request_router_config={"request_router_class": MembershipRouter},
        ray_actor_options={"num_cpus": settings.num_cpus},
        **HEALTH_CHECKS,
        **scaling(settings.replicas, settings.autoscaling),
    )


def application_status(application: str) -> tuple[str, str]:
    """A Serve application's status and the reason it gives; "NOT_STARTED" if there is none."""
    found = serve.status().applications.get(application)
    if found is None:
        return "NOT_STARTED", ""
    messages = [found.message, *(deployment.message for deployment in found.deployments.values())]
    return str(found.status.value), next((message for message in reversed(messages) if message), "")


def reason_in(message: str) -> str:
    """The line of a Serve message that says why: our own error's text, else its last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for line in reversed(lines):
        if (found := re.search(r"\bmodels\.errors\.(\w+: .*)", line)) is not None:
            return found.group(1)
    return lines[-1] if lines else "Ray Serve gave no reason"
