"""The control plane from a gateway's side of a Serve handle, and how a refusal comes through that.

Not here: the control plane itself (``serving.deployments.control``).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.errors import InvalidRequest, LoadFailed, ModelNotFound, ReplicaUnavailable, RequestError, error_class

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


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
