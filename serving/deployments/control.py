"""The control plane's one replica.

Not here: what it decides (``serving.rollout``), how gateways ask it (``serving.deployments.remote_control``).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from ray import serve

from models.manifest import ModelVersion
from models.registry import Registry
from serving.clock import SystemClock
from serving.deployments.common import GATEWAY_DEPLOYMENT
from serving.deployments.deployer import ServeDeployer
from serving.deployments.folders import metrics_dir, system_id, table_path, withdrawn_path
from serving.deployments.link import ServeLink, asked_all
from serving.deployments.process import every, set_up_logging
from serving.deployments.remote_control import refusal
from serving.deployments.run import Run
from serving.errors import RolloutRefused
from serving.settings import Settings

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from serving.rollout.world import Told
    from serving.routing.table import RoutingTable

log = logging.getLogger("holdfast")

GATEWAY_START_S = 60.0
APPLY_S = 7.0
"""A gateway waits some seconds for the replicas of a version that is new to it."""
COLLECT_S = 1.0
ASK_S = 10.0
SHOW_S = 1.0

Answer = bytes | tuple[str, str]
"""JSON, or the code and the text of what speaks against it."""


class ControlReplica:
    """The control plane: which versions are deployed, the routing table, and the rollouts that move it."""

    async def __init__(self, settings: Settings, run: Run) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.metrics import ProcessMetrics, RolloutMetrics, open_metrics
        from serving.rollout.controller import Controller
        from serving.rollout.effects import Effects
        from serving.rollout.event_log import open_log
        from serving.rollout.history import Claim
        from serving.rollout.restart import RollingRestart
        from serving.rollout.versions import VersionControl
        from serving.rollout.withdrawn_file import WithdrawnFile
        from serving.routing.table_file import TableFile

        set_up_logging(settings)
        open_metrics(metrics_dir(run.folder))
        ProcessMetrics("control").began()
        self._metrics = RolloutMetrics()
        self._gateways: DeploymentHandle[Any] | None = None
        self._application = serve.get_replica_context().app_name
        self._settings = settings
        registry, clock = Registry(settings.store_dir), SystemClock()
        self._versions = VersionControl(
            settings,
            registry=registry,
            deployer=ServeDeployer(settings, replace(run, application=self._application)),
            publish=self._publish,
            state=TableFile(table_path(run.folder)),
            withdrawn=WithdrawnFile(withdrawn_path(settings)),
        )
        self._restart = RollingRestart(self, each_timeout_s=settings.http.drain_timeout_s + GATEWAY_START_S)
        self._controller = Controller(
            Effects(
                self._versions,
                registry=registry,
                settings=settings,
                clock=clock,
                ask=self._collect,
                watch=watch_replicas,
            ),
            open_log=lambda: open_log(settings.event_log_place),
            claim=Claim(
                controller=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
                system=f"{settings.state_dir} ({system_id(settings)[:8]})",
            ),
            clock=clock,
        )
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._controller.run()),
            loop.create_task(every(SHOW_S, self._show)),
        ]

    async def __del__(self) -> None:
        """What goes on by itself ends before the process does: it would find its threads gone, and say so."""
        tasks = getattr(self, "_tasks", ())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Versions

    async def load(self, model: str, body: bytes) -> tuple[str, str] | None:
        load = functools.partial(self._versions.load, rolled_back=self._controller.desired.rolled_back)
        return await refusal(self._unheld(model, load, body))

    async def unload(self, model: str, body: bytes) -> tuple[str, str] | None:
        return await refusal(self._unheld(model, self._versions.unload, body))

    async def restart_gateways(self) -> bytes:
        return msgspec.json.encode(await self._restart.begin())

    async def gateways(self) -> bytes:
        return msgspec.json.encode({"accepting": sorted(await self.accepting()), "restart": self._restart.progress})

    async def accepting(self) -> list[str]:
        """The gateways that accept requests, by their replica's id."""
        _, answers = await self._ask_gateways("whoami", within_s=ASK_S)
        return [gateway for gateway, accepting in answers if accepting]

    async def leave(self, gateway: str) -> None:
        """Tell one gateway to finish what it has and end."""
        await self._ask_gateways("leave", gateway, within_s=ASK_S)

    async def close_breaker(self, model: str, version: str, body: bytes) -> Answer:
        return await refusal(self._close_breaker(model, version, body))

    async def _close_breaker(self, model: str, version: str, body: bytes) -> bytes:
        from serving.admin.bodies import CloseBreaker
        from serving.admin.breakers import closed

        asked = msgspec.json.decode(body, type=CloseBreaker)
        gateways, answers = await self._ask_gateways("close_breaker", model, version, within_s=ASK_S)
        answer = closed(f"{model}@{version}", answers, gateways=gateways)
        log.warning("the breaker of %s@%s was closed by hand by %s: %s", model, version, asked.who or "?", asked.why)
        return msgspec.json.encode(answer)

    # Rollouts

    async def rollouts(self) -> Answer:
        return await refusal(self._overview())

    async def rollout(self, model: str) -> Answer:
        return await refusal(self._rollout(model))

    async def start_rollout(self, body: bytes) -> Answer:
        return await refusal(self._start_rollout(body))

    async def command_rollout(self, model: str, command: str, body: bytes) -> Answer:
        return await refusal(self._command_rollout(model, command, body))

    async def rollout_history(self, model: str, after: int, limit: int) -> Answer:
        return await refusal(self._history(model, after, limit))

    async def _overview(self) -> bytes:
        from serving.rollout.report import ControllerReport, overview

        controller = self._controller
        state, detail = controller.status
        shown = ControllerReport(
            state=state,
            detail=detail,
            pid=os.getpid(),
            seq=controller.seq,
            log=self._settings.event_log_shown,
        )
        return msgspec.json.encode(overview(controller.desired, shown))

    async def _rollout(self, model: str) -> bytes:
        return self._report(model)

    async def _start_rollout(self, body: bytes) -> bytes:
        from serving.admin.bodies import StartRollout

        asked = msgspec.json.decode(body, type=StartRollout)
        state = await self._controller.start(asked.file, who=asked.who, why=asked.why)
        return self._report(state.spec.model)

    async def _command_rollout(self, model: str, command: str, body: bytes) -> bytes:
        from serving.admin.bodies import CommandRollout

        asked = msgspec.json.decode(body, type=CommandRollout)
        await self._controller.command(model, command, who=asked.who, why=asked.why)
        return self._report(model)

    async def _history(self, model: str, after: int, limit: int) -> bytes:
        return msgspec.json.encode(await self._controller.history(model, after=after, limit=limit))

    def _report(self, model: str) -> bytes:
        from serving.rollout.report import report

        return msgspec.json.encode(report(self._controller.rollout(model)))

    async def _show(self) -> None:
        from serving.rollout.report import report

        controller = self._controller
        self._metrics.show_controller(
            wall=SystemClock.wall(), writable=controller.status.state == "writing", seq=controller.seq
        )
        for one in map(report, controller.desired.rollouts.values()):
            self._metrics.show(
                one.model,
                one.version,
                phase=one.phase,
                steps=one.step + 1,
                evidence=one.evidence.share,
                budget_left=one.budget_left,
                rollback_took_s=one.rollback_took_s,
            )

    async def _unheld(self, model: str, command: Callable[[str, bytes], Awaitable[None]], body: bytes) -> None:
        from serving.rollout.standing import held_by

        if reason := held_by(self._controller.desired, model):
            raise RolloutRefused(reason)
        await command(model, body)

    # Gateways

    async def _ask_gateways(self, method: str, *args: Any, within_s: float) -> tuple[int, list[Any]]:
        """How many gateways there are, 0 if nobody knows, and the answers that came in time."""
        if self._gateways is None:
            self._gateways = serve.get_deployment_handle(GATEWAY_DEPLOYMENT, self._application)
        return await asked_all(self._gateways.broadcast(method, *args), within_s=within_s)

    async def _collect(self, asked: bytes) -> tuple[int, Sequence[bytes]]:
        return await self._ask_gateways("rollout_outcomes", asked, within_s=COLLECT_S)

    async def _publish(self, table: RoutingTable, *, built: bool) -> Told:
        """Hand the table to every live gateway; one that misses it reads the file within a second."""
        from serving.rollout.world import Told
        from serving.routing.table import table_to_json

        method = "apply_table" if built else "take_table"
        gateways, answers = await self._ask_gateways(method, table_to_json(table), within_s=APPLY_S)
        told = Told(table.generation, sum(answer >= table.generation for answer in answers), gateways)
        if not told.all:
            log.info("table %d is known to %d of %d gateways", table.generation, told.acknowledged, gateways)
        return told


def watch_replicas(name: ModelVersion, tell: Callable[[Iterable[str]], None]) -> Callable[[], None]:
    """Serve tells of every replica of the version that comes or goes."""
    link = ServeLink(name)
    link.watch(tell)
    return link.close
