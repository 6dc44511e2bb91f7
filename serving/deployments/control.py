"""The control plane's one replica.

Not here: what it decides (``serving.rollout``), how gateways ask it (``serving.deployments.remote_control``).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from models.registry import Registry
from serving.deployments.common import GATEWAY_DEPLOYMENT
from serving.deployments.deployer import ServeDeployer
from serving.deployments.folders import table_path, withdrawn_path
from serving.deployments.process import set_up_logging
from serving.deployments.remote_control import refusal
from serving.settings import Settings

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger("holdfast")

GATEWAY_START_S = 60.0


class ControlReplica:
    """The control plane: which versions are deployed, and the routing table."""

    async def __init__(self, settings: Settings, run_dir: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.rollout.restart import RollingRestart
        from serving.rollout.versions import VersionControl
        from serving.rollout.withdrawn_file import WithdrawnFile
        from serving.routing.table_file import TableFile

        set_up_logging(settings)
        self._gateways: DeploymentHandle[Any] | None = None
        self._application = serve.get_replica_context().app_name
        self._versions = VersionControl(
            settings,
            registry=Registry(settings.store_dir),
            deployer=ServeDeployer(settings, run_dir),
            publish=self._publish,
            state=TableFile(table_path(run_dir)),
            withdrawn=WithdrawnFile(withdrawn_path(settings)),
        )
        self._restart = RollingRestart(self, each_timeout_s=settings.http.drain_timeout_s + GATEWAY_START_S)
        self._starting = asyncio.get_running_loop().create_task(self._versions.start())

    async def load(self, model: str, body: bytes) -> tuple[str, str] | None:
        return await refusal(self._versions.load(model, body))

    async def unload(self, model: str, body: bytes) -> tuple[str, str] | None:
        return await refusal(self._versions.unload(model, body))

    async def restart_gateways(self) -> bytes:
        return msgspec.json.encode(await self._restart.begin())

    async def gateways(self) -> bytes:
        return msgspec.json.encode({"accepting": sorted(await self.accepting()), "restart": self._restart.progress})

    async def accepting(self) -> list[str]:
        """The gateways that accept requests, by their replica's id."""
        return [gateway for gateway, accepting in await self._ask_gateways("whoami") if accepting]

    async def leave(self, gateway: str) -> None:
        """Tell one gateway to finish what it has and end."""
        await self._ask_gateways("leave", gateway)

    async def _ask_gateways(self, method: str, *args: Any) -> list[Any]:
        try:
            return await self._tell_gateways(method, *args)
        except (RayError, RayServeException, TimeoutError, KeyError) as error:  # one of them is just going
            log.info("not every gateway has answered %s: %r", method, error)
            return []

    async def _tell_gateways(self, method: str, *args: Any) -> list[Any]:
        if self._gateways is None:
            self._gateways = serve.get_deployment_handle(GATEWAY_DEPLOYMENT, self._application)
        async with asyncio.timeout(10):
            answers: list[Any] = await self._gateways.broadcast(method, *args).results_async()
        return answers

    async def _publish(self, table: Any) -> None:
        """Hand the table to every live gateway; one that misses it reads the file within a second."""
        from serving.routing.table import table_to_json

        try:
            await self._tell_gateways("apply_table", table_to_json(table))
        except (RayError, RayServeException, TimeoutError, KeyError) as error:
            log.warning("not every gateway has acknowledged table %d yet: %r", table.generation, error)
