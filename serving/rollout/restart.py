"""Restarts the gateways one after the other, so that the others answer meanwhile.

Not here: how a gateway leaves without losing a request (``serving.deployments``), and who replaces it (Serve).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final, Literal, Protocol

import msgspec

log = logging.getLogger("holdfast.rollout")

POLL_S: Final = 0.1
SETTLE_S: Final = 1.0
"""How long HAProxy may take to notice that a new gateway accepts requests, before the next one leaves."""


class Fleet(Protocol):
    """All gateways."""

    async def accepting(self) -> Collection[str]:
        """Those that take requests now. Empty while nobody can say."""
        ...

    async def leave(self, gateway: str) -> None:
        """Tell one to finish what it has and end."""
        ...


class RestartProgress(msgspec.Struct, frozen=True):
    """How far a rolling restart is; gateways by their replica's id."""

    state: Literal["none", "running", "done", "failed"] = "none"
    restarted: tuple[str, ...] = ()
    to_do: tuple[str, ...] = ()
    reason: str = ""


class RollingRestart:
    """At most one at a time; what the last one came to is remembered."""

    def __init__(self, fleet: Fleet, *, each_timeout_s: float) -> None:
        self._fleet = fleet
        self._each_timeout_s = each_timeout_s
        self._task: asyncio.Task[None] | None = None
        self.progress = RestartProgress()

    async def begin(self) -> RestartProgress:
        """Begin, unless one is under way. Doesn't wait: the gateway that carries this question is one of them."""
        if self.progress.state != "running":
            self.progress = RestartProgress("running")
            self.progress = RestartProgress("running", to_do=tuple(sorted(await self._fleet.accepting())))
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self.progress

    async def _run(self) -> None:
        try:
            while self.progress.to_do:
                gateway, *_ = self.progress.to_do
                async with asyncio.timeout(self._each_timeout_s):
                    await self._replace(gateway, of=len(self.progress.restarted) + len(self.progress.to_do))
                self._went(restarted=(*self.progress.restarted, gateway), to_do=self.progress.to_do[1:])
            self._went(state="done")
        except TimeoutError:
            gateway, *_ = self.progress.to_do
            self._went(
                state="failed",
                reason=f"gateway {gateway} wasn't replaced within {self._each_timeout_s:g} s; the "
                "others were left as they are",
            )
        except Exception as error:
            log.exception("the rolling restart failed")
            self._went(state="failed", reason=f"{type(error).__name__}: {error}")

    async def _replace(self, gateway: str, *, of: int) -> None:
        await self._until(lambda accepting: len(accepting) >= of)
        await self._fleet.leave(gateway)
        await self._until(lambda accepting: gateway not in accepting and len(accepting) >= of)
        await asyncio.sleep(SETTLE_S)

    async def _until(self, condition: Callable[[Collection[str]], bool]) -> None:
        while not condition(await self._fleet.accepting()):  # noqa: ASYNC110  # the gateways are asked, nobody tells
            await asyncio.sleep(POLL_S)

    def _went(self, **changes: object) -> None:
        self.progress = msgspec.structs.replace(self.progress, **changes)
        log.info("rolling restart: %s", self.progress)
