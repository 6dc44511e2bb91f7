"""HAProxy's keeper, one on each node. Not here: how HAProxy is kept (``serving.ingress.keeper``)."""

from __future__ import annotations

import asyncio

from serving.deployments.folders import metrics_dir, system_id, system_mark
from serving.deployments.process import every, set_up_logging
from serving.settings import Settings


class HaproxyReplica:
    """HAProxy on this node, and the housekeeping of the node's metrics."""

    async def __init__(self, settings: Settings, run_dir: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.ingress.keeper import HaproxyFiles, HaproxyKeeper
        from serving.metrics import ProcessMetrics, forget_dead_processes, open_metrics

        set_up_logging(settings)
        open_metrics(metrics_dir(run_dir))
        self._haproxy = ProcessMetrics("haproxy")
        system = system_mark(settings, system_id(settings))
        self._keeper = HaproxyKeeper(settings, HaproxyFiles(settings), system=system, on_start=self._haproxy.began)
        await self._keeper.start()
        self._sweeper = asyncio.get_running_loop().create_task(
            every(10.0, lambda: asyncio.to_thread(forget_dead_processes, metrics_dir(run_dir)))
        )

    async def check_health(self) -> None:
        if not self._keeper.running:
            raise RuntimeError(f"HAProxy isn't running: {self._keeper.last_error}")

    async def __del__(self) -> None:
        if hasattr(self, "_sweeper"):
            self._sweeper.cancel()
            await self._keeper.stop()
            self._haproxy.ended()
