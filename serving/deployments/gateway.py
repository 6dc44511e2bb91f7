"""A gateway's replica. Not here: what a gateway does with a request (``serving.ingress``, ``serving.gateway``)."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve

from models.registry import Registry
from serving.autoscaling import DEMAND
from serving.clock import SystemClock
from serving.deployments.folders import metrics_dir, system_id, system_mark, table_path
from serving.deployments.link import link_to
from serving.deployments.process import METRICS_FLUSH_S, every, set_up_logging
from serving.deployments.remote_control import RemoteControl
from serving.deployments.run import Run
from serving.leaving import Exit, Sigterm, ends_at_once
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.routing.table import RoutingTable

log = logging.getLogger("holdfast")

GATEWAY_HANG_S = 5.0
"""A gateway whose loop takes longer than this for one turn is replaced."""
TABLE_POLL_S = 1.0
TOKEN_POLL_S = 1.0
INCIDENTS_CLOSE_S = 2.0
TRACES_CLOSE_S = 1.0
DRAIN_NOTICE_S = 0.8
"""Within this time HAProxy has seen twice that a gateway doesn't accept requests any more."""


@serve.ingress()
class GatewayReplica:
    """One gateway with its own listener; the same app also answers behind Serve's proxies."""

    async def __init__(self, settings: Settings, run: Run, control: Any, haproxy: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.admin.guard import Guard
        from serving.admin.page.routes import PageRoutes
        from serving.admin.routes import AdminRoutes
        from serving.admin.token import TokenFile
        from serving.cache_setup import open_cache
        from serving.garbage import settle
        from serving.gateway import Gateway
        from serving.incidents.setup import open_incidents
        from serving.ingress.asgi import AsgiApp
        from serving.ingress.faults import FaultsOnDemand
        from serving.ingress.front import build_routes, own_version
        from serving.ingress.listener import Listener
        from serving.live.setup import build_live
        from serving.metrics import AdminMetrics, ProcessMetrics, open_metrics
        from serving.routing.table_file import TableFile
        from serving.status import gateway_status
        from serving.tracing.setup import open_tracing
        from serving.watchdog import LoopTurns, Watchdog

        set_up_logging(settings)
        open_metrics(metrics_dir(run.folder))
        self._process = ProcessMetrics("gateway")
        self._process.began()
        starting = ends_at_once(self._process.ended)
        registry = Registry(settings.store_dir)
        self._file = TableFile(table_path(run.folder))
        self._cache = await open_cache(settings, clock=SystemClock(), random=random.random)
        self._gateway = Gateway(
            settings,
            link=link_to,
            read_manifest=registry.manifest,
            clock=SystemClock(),
            cache=self._cache,
            secret=run.secret,
            system=system_mark(settings, system_id(settings)),
        )
        self._incidents = open_incidents(settings, self._gateway, clock=SystemClock(), random=random.random)
        self._traces = open_tracing(
            settings, self._gateway, version=own_version(), clock=SystemClock(), random_bits=random.getrandbits
        )
        self._token = None if settings.admin_token_file is None else TokenFile(Path(settings.admin_token_file))
        guard = Guard(
            settings,
            token=None if self._token is None else self._token.get,
            count=AdminMetrics().refused,
        )
        store = None if self._incidents is None else self._incidents.store
        remote = RemoteControl(control)
        self._live = build_live(
            settings,
            status=lambda: gateway_status(
                self._gateway, cache=self._cache, clock=SystemClock(), incidents=self._incidents
            ),
            rollouts=remote.rollouts,
            port=lambda: self._listener.port,
            metrics_dir=metrics_dir(run.folder),
            incidents=store,
            system=self._gateway.system,
            version=own_version(),
            clock=SystemClock(),
        )
        admin = AdminRoutes(
            remote,
            FaultsOnDemand(self._gateway),
            guard,
            body_max_bytes=settings.http.body_max_bytes,
            incidents=store,
        )
        front = build_routes(
            settings,
            self._gateway,
            registry=registry,
            doors=(admin, self._live.routes, PageRoutes()),
            metrics_dir=metrics_dir(run.folder),
            cache=self._cache,
            hear=self._live.hear,
            incidents=self._incidents,
            traces=self._traces,
        )
        self._app = AsgiApp(body_max_bytes=settings.http.body_max_bytes, routes=front.routes)
        self._listener = Listener(
            front.routes.answer, settings.http, clock=SystemClock(), busy_poll_s=settings.busy_poll_us * 1e-6
        )
        await self._follow_token()
        if (table := await self._read_table()) is not None:
            await self._gateway.apply(table)
        settle()
        self._tasks = [
            asyncio.get_running_loop().create_task(every(TABLE_POLL_S, self._follow_file)),
            asyncio.get_running_loop().create_task(every(TOKEN_POLL_S, self._follow_token)),
            asyncio.get_running_loop().create_task(every(METRICS_FLUSH_S, front.flush_metrics)),
        ]
        self._flush_metrics = front.flush_metrics
        self._id = serve.get_replica_context().replica_id.unique_id
        self._watchdog = Watchdog([LoopTurns(asyncio.get_running_loop())], limit_s=GATEWAY_HANG_S, clock=SystemClock())
        self._exit = Exit(self._leave, within_s=settings.http.drain_timeout_s + 5)
        starting.close()
        self._sigterm = Sigterm(self._exit.begin)
        await self._listener.start()

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def apply_table(self, raw: bytes) -> int:
        """Called by the control plane; returns the generation of which everything is in force."""
        from serving.routing.table import table_from_json

        return await self._gateway.apply(table_from_json(raw))

    async def take_table(self, raw: bytes) -> int:
        """Called by the control plane; returns the generation by which requests are routed, at once."""
        from serving.routing.table import table_from_json

        self._gateway.take(table_from_json(raw))
        return self._gateway.table.generation

    async def rollout_outcomes(self, raw: bytes) -> bytes:
        """Called by the control plane again and again while there is a rollout: what was counted here of it."""
        from serving.routing.collected import asked_from_json, collected_to_json

        return collected_to_json(self._gateway.rollout_outcomes(asked_from_json(raw)))

    async def close_breaker(self, model: str, version: str) -> bool | None:
        """Called by the control plane: a person closes a version's breaker. Whether it wasn't closed already."""
        return self._gateway.close_breaker(model, version)

    async def whoami(self) -> tuple[str, bool]:
        """Called by the control plane: this replica's id, and whether it accepts requests."""
        return self._id, self._gateway.accepting

    async def leave(self, gateway: str) -> None:
        """Called by the control plane: if this is the gateway that is meant, it is replaced."""
        if gateway == self._id:
            self._exit.begin()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {DEMAND: self._listener.under_way}

    async def _follow_file(self) -> None:
        """Take what the file says, and don't wait for what that brings: the next table may take something back."""
        if (table := await self._read_table()) is not None:
            self._gateway.take(table)

    async def _read_table(self) -> RoutingTable | None:
        """None if there is none yet, or if it can't be read."""
        from serving.routing.table import EMPTY

        try:
            table = await asyncio.to_thread(self._file.read)
        except ValueError as error:
            log.error("the routing table's file can't be read, so the last table stays: %s", error)
            return None
        return None if table is EMPTY else table

    async def _follow_token(self) -> None:
        if self._token is not None:
            await asyncio.to_thread(self._token.read)

    async def check_health(self) -> None:
        """The loop answers; whether models do is readiness, not health."""

    async def _leave(self) -> None:
        """Take no new requests, once HAProxy has noticed, and finish what there is."""
        self._gateway.draining = True
        await asyncio.sleep(DRAIN_NOTICE_S)
        self._live.close()  # its viewers find another gateway
        await self._listener.close()
        self._watchdog.stop()
        for task in self._tasks:
            task.cancel()
        if self._incidents is not None:
            await asyncio.to_thread(self._incidents.close, within_s=INCIDENTS_CLOSE_S)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close, within_s=TRACES_CLOSE_S)
        await self._flush_metrics()
        await self._gateway.close()
        if self._cache is not None:
            await self._cache.close()
        self._process.ended()

    async def __del__(self) -> None:
        if hasattr(self, "_sigterm"):
            self._sigterm.close()
            await self._exit.left()
