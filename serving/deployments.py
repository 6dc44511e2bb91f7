"""The Ray Serve deployments: gateways, model replicas, HAProxy's keeper, and the control plane.

Only this file and ``serving.app`` import ray. Each class is a thin shell around parts that know nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import re
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from models.errors import ModelError
from models.manifest import ModelVersion
from models.registry import Registry
from serving.autoscaling import DEMAND, scaling
from serving.channel.address import Address, UnixAddress, parse_address
from serving.channel.watchers import WATCHERS, OnReplicas, ReplicaProcess
from serving.clock import SystemClock
from serving.errors import (
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
    error_class,
)
from serving.leaving import Exit, Sigterm
from serving.model_settings import ModelSettings
from serving.settings import Settings

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from serving.channel.injector import Injector
    from serving.gateway import VersionLink

log = logging.getLogger("holdfast")

T = TypeVar("T")

APPLICATION = "holdfast"
MODEL_DEPLOYMENT = "Model"
GATEWAY_DEPLOYMENT = "Gateway"
METADATA_ADDRESS = "holdfast_channel"
METADATA_NODE = "holdfast_node"
METADATA_PID = "holdfast_pid"

QUIET = {"log_level": "WARNING", "enable_access_log": False}


class MembershipRouter(PowerOfTwoChoicesRequestRouter):
    """Serve's own router, which also says where the live replicas' tensor channels are."""

    def update_replicas(self, replicas: list[Any]) -> None:
        # Serve pickles this class with its module by value, so only an import here finds this process's own object.
        from serving.channel.watchers import WATCHERS, ReplicaProcess

        super().update_replicas(replicas)
        addresses: dict[str, Address] = {}
        processes: dict[str, ReplicaProcess] = {}
        for replica in replicas:
            metadata = replica.replica_metadata
            name = replica.replica_id.unique_id
            processes[name] = ReplicaProcess(int(metadata.get(METADATA_PID, 0)), metadata.get(METADATA_NODE, ""))
            with contextlib.suppress(KeyError, ValueError):
                addresses[name] = parse_address(metadata[METADATA_ADDRESS])
        WATCHERS.changed(self._deployment_id.app_name, addresses, processes)


class ServeLink:
    """A ``VersionLink`` over a Serve application."""

    def __init__(self, name: ModelVersion) -> None:
        self._application = application_of(name)
        handle: DeploymentHandle[Any] = serve.get_deployment_handle(MODEL_DEPLOYMENT, self._application)
        if not handle.is_initialized:
            handle._init()  # type: ignore[no-untyped-call]  # noqa: SLF001  # starts the router before the first call
        self._infer = handle.options(method_name="infer_frame")

    def watch(self, on_replicas: OnReplicas) -> None:
        WATCHERS.watch(self._application, on_replicas)

    def available(self) -> bool:
        return WATCHERS.live(self._application) > 0

    def processes(self) -> Mapping[str, ReplicaProcess]:
        return WATCHERS.processes(self._application)

    async def tell_all(self, method: str, raw: bytes, *, within_s: float) -> list[bytes]:
        """Call a method of every replica; the answers of those that gave one in time."""
        return await answers_in_time(self._infer.broadcast(method, raw), within_s=within_s)

    def close(self) -> None:
        WATCHERS.forget(self._application)

    async def call(self, frame: bytes) -> bytes:
        """Send a frame to any replica of the version and return its answer frame."""
        response = self._infer.remote(frame)
        try:
            answer: bytes = await response
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise ReplicaUnavailable(f"{self._application}: {type(error).__name__}") from None
        except (RayActorError, RayError, RayServeException) as error:
            raise ReplicaLost(f"{self._application}: {type(error).__name__}") from None
        else:
            return answer
        finally:
            response.cancel()  # type: ignore[no-untyped-call]


async def answers_in_time(broadcast: Any, *, within_s: float) -> list[bytes]:
    """What the replicas answered that did so in time; Serve's own way to them gives all or nothing."""
    tasks: list[asyncio.Task[bytes]] = []
    try:
        async with asyncio.timeout(within_s):
            results = await broadcast._fetch_replica_results_async()  # noqa: SLF001  # as said
            tasks += [asyncio.ensure_future(result.get_async()) for result in results]
            await asyncio.wait(tasks)
    except (TimeoutError, RayError, RayServeException):
        pass  # nobody is there, or not all answered: what there is counts
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    return [answer for answer in answers if isinstance(answer, bytes)]


def application_of(name: ModelVersion) -> str:
    """The Serve application of a version; versions are immutable, so the application is never updated."""
    return str(name)


class ModelReplica:
    """One replica of one version: verified, warmed up and tested before Serve calls it alive."""

    async def __init__(self, settings: Settings, model: ModelSettings, name: ModelVersion, run_dir: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from models.loading import load_version
        from serving.channel.messages import PROTOCOL_VERSION, Hello
        from serving.channel.runner import ModelRunner
        from serving.channel.server import TensorServer
        from serving.health import ReplicaHealth
        from serving.metrics import ReplicaMetrics, open_metrics
        from serving.watchdog import LoopTurns, ModelRuns, Watchdog

        set_up_logging(settings)
        open_metrics(metrics_dir(run_dir))
        registry = Registry(settings.store_dir)
        self._loaded = await asyncio.to_thread(load_version, registry, name.model, name.version, threads=model.threads)
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
            busy_poll_s=settings.busy_poll_us * 1e-6,
        )
        replica = serve.get_replica_context().replica_id.unique_id
        self._injector = self._faults(replica) if settings.faults else None
        self._flusher = asyncio.get_running_loop().create_task(every(METRICS_FLUSH_S, self._flush_metrics))
        self._address = await self._server.start(UnixAddress(str(socket_dir(settings, run_dir) / f"{replica}.sock")))
        self._health = ReplicaHealth(
            self._golden,
            self._server.reports,
            busy=lambda: self._runner.under_way() is not None,
            replace_after_s=model.ejection.replace_after_s,
            clock=self._clock,
        )
        self._watchdog = Watchdog(
            [LoopTurns(asyncio.get_running_loop()), ModelRuns(self._runner.under_way)],
            limit_s=model.hang_timeout_ms / 1000,
            clock=self._clock,
        )
        self._exit = Exit(self._leave, within_s=MODEL_DRAIN_S)
        self._sigterm = Sigterm(self._exit.begin)

    def record_replica_metadata(self) -> dict[str, str]:
        """What Serve tells every router of this replica: where its tensor channel listens, and on which node."""
        return {
            METADATA_ADDRESS: str(self._address),
            METADATA_NODE: ray.get_runtime_context().get_node_id(),
            METADATA_PID: str(os.getpid()),
        }

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

    async def __del__(self) -> None:
        if hasattr(self, "_sigterm"):
            self._sigterm.close()
            await self._exit.left()


class HaproxyReplica:
    """HAProxy on this node, and the housekeeping of the node's metrics."""

    async def __init__(self, settings: Settings, run_dir: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.ingress.keeper import HaproxyFiles, HaproxyKeeper
        from serving.metrics import forget_dead_processes, open_metrics

        set_up_logging(settings)
        open_metrics(metrics_dir(run_dir))
        self._keeper = HaproxyKeeper(settings, HaproxyFiles(settings, socket_dir(settings, run_dir)))
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


class ControlReplica:
    """The control plane: which versions are deployed, and the routing table."""

    async def __init__(self, settings: Settings, run_dir: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.rollout.restart import RollingRestart
        from serving.rollout.versions import VersionControl
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
        """Ask Serve in a thread, one question at a time.

        To deploy and even to tell a status, Serve marks a module of its own as pickled by value and takes the mark
        away again; of two threads that do so, one fails.
        """
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


HEALTH_CHECKS: dict[str, Any] = {"health_check_period_s": 1, "health_check_timeout_s": 2}
"""Three checks in a row have to fail, so a process that says nothing at all is ended after six to seven seconds."""

MODEL_DRAIN_S = 10.0


def reason_in(message: str) -> str:
    """The line of a Serve message that says why: our own error's text, else its last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for line in reversed(lines):
        if (found := re.search(r"\bmodels\.errors\.(\w+: .*)", line)) is not None:
            return found.group(1)
    return lines[-1] if lines else "Ray Serve gave no reason"


def application_status(application: str) -> tuple[str, str]:
    """A Serve application's status and the reason it gives; "NOT_STARTED" if there is none."""
    found = serve.status().applications.get(application)
    if found is None:
        return "NOT_STARTED", ""
    messages = [found.message, *(deployment.message for deployment in found.deployments.values())]
    return str(found.status.value), next((message for message in reversed(messages) if message), "")


class RemoteControl:
    """The control plane as a gateway's routes see it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def load(self, model: str, body: bytes) -> None:
        await self._command("load", model, body)

    async def unload(self, model: str, body: bytes) -> None:
        await self._command("unload", model, body)

    async def restart_gateways(self) -> bytes:
        progress: bytes = await self._ask("restart_gateways")
        return progress

    async def gateways(self) -> bytes:
        found: bytes = await self._ask("gateways")
        return found

    async def _ask(self, question: str, *args: Any) -> Any:
        try:
            return await self._handle.options(method_name=question).remote(*args)
        except (RayError, RayServeException) as error:
            raise ReplicaUnavailable(f"the control plane didn't answer: {type(error).__name__}") from None

    async def _command(self, command: str, model: str, body: bytes) -> None:
        refused = await self._ask(command, model, body)
        if refused is not None:
            code, message = refused
            raise error_class(code, among=(InvalidRequest, ModelNotFound, LoadFailed))(message)


async def refusal(command: Awaitable[None]) -> tuple[str, str] | None:
    """None if the command was carried out, else the code and text of what speaks against it."""
    try:
        await command
    except RequestError as error:
        return error.code, error.message
    return None


@serve.ingress()
class GatewayReplica:
    """One gateway with its own listener; the same app also answers behind Serve's proxies."""

    async def __init__(self, settings: Settings, run_dir: str, control: Any, haproxy: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        from serving.cache_setup import open_cache
        from serving.gateway import Gateway
        from serving.ingress.asgi import AsgiApp
        from serving.ingress.front import build_routes
        from serving.ingress.listener import Listener
        from serving.metrics import open_metrics
        from serving.routing.table_file import TableFile
        from serving.watchdog import LoopTurns, Watchdog

        set_up_logging(settings)
        open_metrics(metrics_dir(run_dir))
        registry = Registry(settings.store_dir)
        self._file = TableFile(table_path(run_dir))
        self._cache = await open_cache(settings, clock=SystemClock(), random=random.random)
        self._gateway = Gateway(
            settings, link=link_to, read_manifest=registry.manifest, clock=SystemClock(), cache=self._cache
        )
        front = build_routes(
            settings,
            self._gateway,
            registry=registry,
            control=RemoteControl(control) if settings.admin_allowed else None,
            metrics_dir=metrics_dir(run_dir),
            cache=self._cache,
        )
        self._app = AsgiApp(body_max_bytes=settings.http.body_max_bytes, routes=front.routes)
        self._listener = Listener(
            front.routes.answer, settings.http, clock=SystemClock(), busy_poll_s=settings.busy_poll_us * 1e-6
        )
        await self._follow_file()
        await self._listener.start()
        self._tasks = [
            asyncio.get_running_loop().create_task(every(TABLE_POLL_S, self._follow_file)),
            asyncio.get_running_loop().create_task(every(METRICS_FLUSH_S, front.flush_metrics)),
        ]
        self._flush_metrics = front.flush_metrics
        self._id = serve.get_replica_context().replica_id.unique_id
        loop = LoopTurns(asyncio.get_running_loop())
        self._watchdog = Watchdog([loop], limit_s=GATEWAY_HANG_S, clock=SystemClock())
        self._exit = Exit(self._leave, within_s=settings.http.drain_timeout_s + 5)
        self._sigterm = Sigterm(self._exit.begin)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def apply_table(self, raw: bytes) -> int:
        """Called by the control plane; returns the generation in force."""
        from serving.routing.table import table_from_json

        return await self._gateway.apply(table_from_json(raw))

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
        from serving.routing.table import EMPTY

        try:
            table = await asyncio.to_thread(self._file.read)
        except ValueError as error:
            log.error("the routing table's file can't be read, so the last table stays: %s", error)
            return
        if table is not EMPTY:
            await self._gateway.apply(table)

    async def check_health(self) -> None:
        """The loop answers; whether models do is readiness, not health."""

    async def _leave(self) -> None:
        """Take no new requests, once HAProxy has noticed, and finish what there is."""
        self._gateway.draining = True
        await asyncio.sleep(DRAIN_NOTICE_S)
        await self._listener.close()
        self._watchdog.stop()
        for task in self._tasks:
            task.cancel()
        await self._flush_metrics()
        await self._gateway.close()
        if self._cache is not None:
            await self._cache.close()

    async def __del__(self) -> None:
        if hasattr(self, "_sigterm"):
            self._sigterm.close()
            await self._exit.left()


GATEWAY_HANG_S = 5.0
"""A gateway whose loop takes longer than this for one turn is replaced."""
GATEWAY_START_S = 60.0
TABLE_POLL_S = 1.0
METRICS_FLUSH_S = 0.5
DRAIN_NOTICE_S = 0.8
"""Within this time HAProxy has seen twice that a gateway doesn't accept requests any more."""


async def link_to(model: str, version: str) -> VersionLink:
    return ServeLink(ModelVersion(model, version))


async def every(seconds: float, action: Callable[[], Awaitable[Any]]) -> None:
    """Repeat ``action`` until cancelled; one that fails is logged and tried again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await action()
        except Exception:
            log.exception("a periodic task failed")


def set_up_logging(settings: Settings) -> None:
    """Holdfast's log goes to standard error, which Ray keeps for every process."""
    logger = logging.getLogger("holdfast")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.__stderr__)  # Serve puts its own logger in sys.stderr's place
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(settings.log_level)
    logger.propagate = False


class _Formatter(logging.Formatter):
    """Formats traces without ``print``, of which Serve makes one that writes them as tuples."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        return "".join(traceback.format_exception(*ei)).rstrip()


def metrics_dir(run_dir: str) -> Path:
    return Path(run_dir) / "metrics"


def table_path(run_dir: str) -> Path:
    return Path(run_dir) / "routing.json"


def socket_dir(settings: Settings, run_dir: str) -> Path:
    """The sockets of one run; under the temporary folder, because their paths must be short."""
    base = settings.channel.socket_dir or tempfile.gettempdir()
    return Path(base) / f"holdfast-{Path(run_dir).name}"
