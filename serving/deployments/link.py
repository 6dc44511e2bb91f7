"""How a gateway hears of a version's replicas, and how it calls them without a channel: Serve's handle and its router.

What this needs of Ray that Ray doesn't promise is in this file only (docs/adr/0012). Not here: the tensor channel
(``serving.channel``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from models.manifest import ModelVersion
from serving.channel.address import Address, parse_address
from serving.channel.watchers import WATCHERS, OnReplicas, ReplicaProcess
from serving.deployments.common import (
    METADATA_ADDRESS,
    METADATA_IP,
    METADATA_NODE,
    METADATA_PID,
    MODEL_DEPLOYMENT,
    application_of,
)
from serving.errors import ReplicaLost, ReplicaUnavailable

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from serving.version import VersionLink


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
            processes[name] = ReplicaProcess(
                int(metadata.get(METADATA_PID, 0)), metadata.get(METADATA_NODE, ""), metadata.get(METADATA_IP, "")
            )
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
        self._on_replicas: OnReplicas | None = None

    def watch(self, on_replicas: OnReplicas) -> None:
        self._on_replicas = on_replicas
        WATCHERS.watch(self._application, on_replicas)

    def available(self) -> bool:
        return WATCHERS.live(self._application) > 0

    def processes(self) -> Mapping[str, ReplicaProcess]:
        return WATCHERS.processes(self._application)

    async def tell_all(self, method: str, raw: bytes, *, within_s: float) -> list[bytes]:
        """Call a method of every replica; the answers of those that gave one in time."""
        return await answers_in_time(self._infer.broadcast(method, raw), within_s=within_s)

    def close(self) -> None:
        if self._on_replicas is not None:
            WATCHERS.forget(self._application, self._on_replicas)

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


async def link_to(model: str, version: str) -> VersionLink:
    return ServeLink(ModelVersion(model, version))


async def answers_in_time(broadcast: Any, *, within_s: float) -> list[bytes]:
    """What the replicas answered that did so in time; Serve's own way to them gives all or nothing."""
    _, answers = await asked_all(broadcast, within_s=within_s)
    return [answer for answer in answers if isinstance(answer, bytes)]


async def asked_all(broadcast: Any, *, within_s: float) -> tuple[int, list[Any]]:
    """How many replicas were asked, 0 if nobody knows, and the answers that came in time."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.timeout(within_s):
            results = await broadcast._fetch_replica_results_async()  # noqa: SLF001  # as said
            tasks += [asyncio.ensure_future(result.get_async()) for result in results]
            if tasks:
                await asyncio.wait(tasks)
    except (TimeoutError, KeyError, RayError, RayServeException):
        pass  # nobody is there, or not all answered: what there is counts
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    return len(tasks), [answer for answer in answers if not isinstance(answer, BaseException)]
