"""The control plane from a gateway's side of a Serve handle, and how a refusal comes through that.

Not here: the control plane itself (``serving.deployments.control``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.errors import (
    BreakerNotOpen,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ReplicaUnavailable,
    RequestError,
    RolloutNotFound,
    RolloutRefused,
    RolloutsUnavailable,
    error_class,
)

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

ANSWER_TIMEOUT_S: Final = 15.0
"""Serve lets a call to a control plane that is dead wait for the next one, however long that takes."""
LOAD_TIMEOUT_S: Final = 300.0
"""A version may take two minutes to come up, and another one of its model may be before it."""
REFUSALS: Final = (
    InvalidRequest,
    ModelNotFound,
    LoadFailed,
    RolloutNotFound,
    RolloutRefused,
    RolloutsUnavailable,
    BreakerNotOpen,
)
"""What the control plane may say against a command."""

T = TypeVar("T")


class RemoteControl:
    """The control plane as a gateway's admin routes see it.

    Calls go by Ray's own way, not by gRPC, whatever the process that made the handle had in its environment: then a
    command that has reached the control plane is carried out to its end, also if its caller doesn't wait for that. One
    that hasn't when its time is over never does.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def load(self, model: str, body: bytes) -> None:
        await self._ask("load", model, body, within_s=LOAD_TIMEOUT_S)

    async def unload(self, model: str, body: bytes) -> None:
        await self._ask("unload", model, body, within_s=LOAD_TIMEOUT_S)

    async def restart_gateways(self) -> bytes:
        progress: bytes = await self._ask("restart_gateways")
        return progress

    async def gateways(self) -> bytes:
        found: bytes = await self._ask("gateways")
        return found

    async def close_breaker(self, model: str, version: str, body: bytes) -> bytes:
        closed: bytes = await self._ask("close_breaker", model, version, body, among=(*REFUSALS, ReplicaUnavailable))
        return closed

    async def rollouts(self) -> bytes:
        return await self._of_rollouts("rollouts")

    async def rollout(self, model: str) -> bytes:
        return await self._of_rollouts("rollout", model)

    async def start_rollout(self, body: bytes) -> bytes:
        return await self._of_rollouts("start_rollout", body, command=True)

    async def command_rollout(self, model: str, command: str, body: bytes) -> bytes:
        return await self._of_rollouts("command_rollout", model, command, body, command=True)

    async def rollout_history(self, model: str, after: int, limit: int) -> bytes:
        return await self._of_rollouts("rollout_history", model, after, limit)

    async def _of_rollouts(self, question: str, *args: Any, command: bool = False) -> bytes:
        try:
            answer: bytes = await self._ask(question, *args)
        except ReplicaUnavailable as error:
            after = "; it may have been carried out: look at the rollout before you say it again" if command else ""
            raise RolloutsUnavailable(f"{error.message}{after}") from None
        return answer

    async def _ask(
        self,
        question: str,
        *args: Any,
        within_s: float = ANSWER_TIMEOUT_S,
        among: Collection[type[RequestError]] = REFUSALS,
    ) -> Any:
        try:
            async with asyncio.timeout(within_s):
                answer = await self._handle.options(method_name=question, _by_reference=True).remote(*args)
        except TimeoutError:
            raise ReplicaUnavailable(f"the control plane didn't answer within {within_s:g} s") from None
        except (RayError, RayServeException) as error:
            raise ReplicaUnavailable(f"the control plane didn't answer: {type(error).__name__}") from None
        if isinstance(answer, tuple):
            code, message = answer
            raise error_class(code, among=among)(message)
        return answer


async def refusal(command: Awaitable[T]) -> T | tuple[str, str]:
    """What the command gives, or the code and the text of what speaks against it."""
    try:
        return await command
    except RequestError as error:
        return error.code, error.message
