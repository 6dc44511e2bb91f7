"""Restarts the gateways one after the other, so that the others answer meanwhile.

Not here: how a gateway leaves without losing a request (``serving.deployments``), and who replaces it (Serve).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
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


class _CantGoOn(Exception):
    """The restart ends here; the text says why."""


@contextlib.asynccontextmanager
async def _within(timeout_s: float, what: str, so: str = "") -> AsyncIterator[None]:
    """Raises ``_CantGoOn`` if what happens inside takes longer. A ``TimeoutError`` of its own is none of ours."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise _CantGoOn(f"{what} within {timeout_s:g} s{so}") from None


class RollingRestart:
    """At most one at a time; what the last one came to is remembered."""

    def __init__(self, fleet: Fleet, *, each_timeout_s: float) -> None:
        self._fleet = fleet
        self._each_timeout_s = each_timeout_s
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self.progress = RestartProgress()

    async def begin(self) -> RestartProgress:
        """Begin, unless one is under way; it goes on if whoever asked for it goes away.

        Waits only until the gateways are known: the one that carries this question is one of them.
        """
        if self.progress.state != "running":
            self.progress = RestartProgress("running")
            self._asked = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(self._asked))
        await self._asked.wait()
        return self.progress

    async def _run(self, asked: asyncio.Event) -> None:
        try:
            await self._find_gateways()
            asked.set()
            while self.progress.to_do:
                await self._replace_next()
            self._went(state="done")
        except _CantGoOn as reason:
            self._went(state="failed", reason=str(reason))
        except Exception as error:
            log.exception("the rolling restart failed")
            self._went(state="failed", reason=f"{type(error).__name__}: {error}")
        finally:
            asked.set()

    async def _find_gateways(self) -> None:
        gateways: Collection[str] = ()
        async with _within(self._each_timeout_s, "the gateways couldn't be asked"):
            gateways = await self._fleet.accepting()
        if not gateways:
            raise _CantGoOn("no gateway says that it accepts requests now; none was restarted")
        self._went(to_do=tuple(sorted(gateways)))

    async def _replace_next(self) -> None:
        restarted, (gateway, *others) = self.progress.restarted, self.progress.to_do
        async with _within(self._each_timeout_s, f"gateway {gateway} wasn't replaced", "; the others were left alone"):
            await self._replace(gateway, of=len(restarted) + 1 + len(others))
        self._went(restarted=(*restarted, gateway), to_do=tuple(others))

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
