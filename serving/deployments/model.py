"""A model replica. Not here: how many there are and when (``serving.deployments.deployer``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ray import serve

from models.errors import ModelError
from models.manifest import ModelVersion
from models.registry import Registry
from serving.autoscaling import DEMAND
from serving.channel.address import Address, TcpAddress, UnixAddress
from serving.clock import SystemClock
from serving.deployments.away import Away
from serving.deployments.common import METADATA_ADDRESS, METADATA_IP, METADATA_NODE, METADATA_PID
from serving.deployments.folders import metrics_dir, socket_dir
from serving.deployments.nodes import Node, this_node
from serving.deployments.process import METRICS_FLUSH_S, every, set_up_logging
from serving.deployments.run import Run
from serving.errors import LoadFailed, ReplicaUnavailable
from serving.leaving import Exit, Sigterm, ends_at_once
from serving.model_settings import ModelSettings
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.channel.injector import Injector

MODEL_DRAIN_S = 10.0


class ModelReplica:
    """One replica of one version: verified, warmed up and tested before Serve calls it alive."""

    async def __init__(self, settings: Settings, model: ModelSettings, name: ModelVersion, run: Run) -> None:  # type: ignore[misc]  # Serve awaits it
        from models.loading import load_version
        from serving.channel.messages import PROTOCOL_VERSION, Hello
        from serving.channel.runner import ModelRunner
        from serving.channel.server import TensorServer
        from serving.garbage import settle
        from serving.health import ReplicaHealth, memory_limit_mb
        from serving.metrics import ProcessMetrics, ReplicaMetrics, open_metrics
        from serving.watchdog import LoopTurns, ModelRuns, Watchdog

        set_up_logging(settings)
        self._node = await asyncio.to_thread(this_node)
        self._away = None if self._node.head else Away(self._node, application=run.application)
        open_metrics(metrics_dir(run.folder) if self._away is None else self._away.metrics_dir)
        self._process = ProcessMetrics("replica", *name)
        self._process.began()  # a version that can't be loaded begins again and again: that shall be seen, too
        starting = ends_at_once(self._process.ended)
        store = settings.store_dir
        if self._away is not None:
            self._away.begin_shipping()
            store = await self._away.fetch(store, name)
        self._loaded = await asyncio.to_thread(
            load_version, Registry(store), name.model, name.version, threads=model.threads
        )
        if self._away is not None:
            await self._away.loaded()
        manifest = self._loaded.manifest
        self._metrics = ReplicaMetrics(*name)
        self._clock = SystemClock()
        self._max_frame_bytes = settings.channel.max_frame_bytes
        self._runner = ModelRunner(
            self._loaded.run,
            manifest.signature,
            clock=self._clock,
            max_waiting=model.max_waiting,
            observer=self._metrics,
        )
        hello = Hello(PROTOCOL_VERSION, "", name.model, name.version, manifest.digest)
        self._server = TensorServer(
            self._runner,
            hello=hello,
            clock=self._clock,
            max_frame_bytes=self._max_frame_bytes,
            secret=run.secret,
            busy_poll_s=settings.busy_poll_us * 1e-6,
        )
        replica = serve.get_replica_context().replica_id.unique_id
        self._injector = self._faults(replica) if settings.faults else None
        self._flusher = asyncio.get_running_loop().create_task(every(METRICS_FLUSH_S, self._flush_metrics))
        settle()
        self._address = await self._listen(addresses(settings, run, self._node, replica), settings)
        self._health = ReplicaHealth(
            self._golden,
            self._server.reports,
            busy=lambda: self._runner.under_way() is not None,
            replace_after_s=model.ejection.replace_after_s,
            clock=self._clock,
            max_memory_mb=None if model.max_memory_mb is None else memory_limit_mb(model.max_memory_mb, replica),
        )
        self._watchdog = Watchdog(
            [LoopTurns(asyncio.get_running_loop()), ModelRuns(self._runner.under_way)],
            limit_s=model.hang_after_ms / 1000,
            clock=self._clock,
        )
        self._exit = Exit(self._leave, within_s=MODEL_DRAIN_S)
        starting.close()
        self._sigterm = Sigterm(self._exit.begin)

    def record_replica_metadata(self) -> dict[str, str]:
        """What Serve tells every router of this replica: where its tensor channel listens, and on which node."""
        return {
            METADATA_ADDRESS: str(self._address),
            METADATA_NODE: self._node.id,
            METADATA_IP: self._node.ip,
            METADATA_PID: str(os.getpid()),
        }

    async def _listen(self, where: Iterator[Address], settings: Settings) -> Address:
        try:
            return await self._server.start_at_first(where)
        except OSError as error:
            at = f"channel.tcp_ports: {settings.channel.tcp_ports}" if self._away is not None else "channel.socket_dir"
            raise LoadFailed(f"{at}: the tensor channel can't listen on {self._node.ip}: {error.strerror}") from None

    async def infer_frame(self, frame: bytes) -> bytes:
        """The safety net: work that comes through the Serve handle."""
        from serving.channel.handle import answer_call
        from serving.channel.messages import error_frame

        if self._server.leaving is not None:  # or it would never be done with what it has
            return error_frame(1, ReplicaUnavailable(self._server.leaving))
        return await answer_call(frame, self._runner, clock=self._clock, max_frame_bytes=self._max_frame_bytes)

    def _faults(self, replica: str) -> Injector:
        """Faults on demand, ready to be told. Serve's rank is the replica's number: a successor has it too."""
        from serving.channel.injector import Injector

        signature = self._loaded.manifest.signature
        injector = Injector(replica, signature, clock=self._clock, number=lambda: serve.get_replica_context().rank.rank)
        injector.install(self._runner, self._server)
        return injector

    async def set_faults(self, raw: bytes) -> bytes:
        """Obey a ``Command`` of ``serving.channel.faults``; a ``Report`` of what is in force."""
        if self._injector is None:
            raise RuntimeError("faults on demand are switched off here (setting `faults`)")
        return self._injector.obey(raw)

    async def check_health(self) -> None:
        await self._health.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling goes by: a replica alone doesn't see what waits for it in the gateways."""
        return {DEMAND: self._server.reports.demand(self._clock.monotonic())}

    async def _golden(self) -> None:
        """A golden prediction, through the same thread as all work."""
        try:
            await self._runner.call(self._loaded.check_golden)
        except ModelError:
            self._metrics.checked_golden(passed=False)
            raise
        self._metrics.checked_golden(passed=True)

    async def _flush_metrics(self) -> None:
        self._metrics.flush()

    async def _leave(self) -> None:
        """Say goodbye and finish what there is."""
        await self._server.drain("the replica is shutting down")
        self._watchdog.stop()
        self._flusher.cancel()
        await self._health.close()
        await self._server.close()
        self._runner.close()
        self._metrics.flush()
        self._process.ended()
        if self._away is not None:
            await self._away.close()

    async def __del__(self) -> None:
        if hasattr(self, "_sigterm"):
            self._sigterm.close()
            await self._exit.left()


def addresses(settings: Settings, run: Run, node: Node, replica: str) -> Iterator[Address]:
    """Where the replica may listen, to be tried in this order: the gateways are on the head node."""
    if node.head:
        yield UnixAddress(str(socket_dir(settings, run.folder) / f"{replica}.sock"))
        return
    first, last = settings.channel.tcp_ports or (0, 0)
    yield from (TcpAddress(node.ip, port) for port in range(first, last + 1))
