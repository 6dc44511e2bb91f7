"""What a model replica needs that isn't on the head node: the version's files, and a way for its metrics.

Not here: the replica (``serving.deployments.model``), where its tensor channel listens.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from models.manifest import ModelVersion
from serving.deployments.common import HAPROXY_DEPLOYMENT
from serving.deployments.fetching import fetch
from serving.deployments.nodes import Node
from serving.own_folder import OwnFolder
from serving.shipped_metrics import SHIP_S, read_metrics

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger("holdfast")

TAKE_TIMEOUT_S: Final = 2.0


class Away:
    """A replica's folder on its own node, and its way to the head node."""

    def __init__(self, node: Node, *, application: str) -> None:
        self._folder = OwnFolder("holdfast-replica-")
        self._application = application
        self._source = f"{node.id[:12]}-{uuid.uuid4().hex[:12]}"
        self._keeper: DeploymentHandle[Any] | None = None
        self._shipping: asyncio.Task[None] | None = None

    @property
    def metrics_dir(self) -> Path:
        return self._folder.path / "metrics"

    @property
    def _store(self) -> Path:
        return self._folder.path / "models"

    async def fetch(self, store: Path, name: ModelVersion) -> Path:
        """A store on this node with a copy of the version in the head node's; raises ``ModelError``, ``LoadFailed``."""
        began = time.monotonic()
        size = await asyncio.to_thread(fetch, store, name, self._store / name.model / name.version)
        took_s = time.monotonic() - began
        log.info("%s: fetched from the head node, %d bytes in %.2f s, to %s", name, size, took_s, self._store)
        return self._store

    async def loaded(self) -> None:
        """The files aren't needed any more: what a runtime has mapped stays mapped."""
        await asyncio.to_thread(shutil.rmtree, self._store, ignore_errors=True)

    def begin_shipping(self) -> None:
        """Tell the metrics' figures to the head node, at once and then every few seconds."""
        self._shipping = asyncio.get_running_loop().create_task(self._ship_for_ever())

    async def _ship_for_ever(self) -> None:
        while True:
            await self.ship()
            await asyncio.sleep(SHIP_S)

    async def ship(self) -> None:
        """Tell them now. What can't be told is told the next time, with what has come to it by then."""
        try:
            files = await asyncio.to_thread(read_metrics, self.metrics_dir)
            if self._keeper is None:
                self._keeper = await asyncio.to_thread(
                    serve.get_deployment_handle, HAPROXY_DEPLOYMENT, self._application
                )
            take = self._keeper.options(method_name="take_metrics", _by_reference=True)
            async with asyncio.timeout(TAKE_TIMEOUT_S):
                await take.remote(self._source, files)
        except (TimeoutError, OSError, RayError, RayServeException) as error:
            log.info("the head node doesn't take the metrics of this replica now: %s", type(error).__name__)

    async def close(self) -> None:
        """Tell the last of them, and remove the folder."""
        if self._shipping is not None:
            self._shipping.cancel()
        await self.ship()
        self._folder.remove()
