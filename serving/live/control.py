"""What the control plane says of rollouts; while it says nothing, what it said last. A thin shell.

There is at most one question to it at a time: to a dead one it waits, as Ray Serve's calls do, for the next one. Not
here: how it is asked (``serving.deployments.remote_control``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from serving.clock import Clock
from serving.errors import RequestError
from serving.rollout.report import ControllerReport, Overview

ASK_TIMEOUT_S: Final = 0.5
SILENT_AFTER_S: Final = 2.0
"""One answer that is late isn't silence yet."""
SILENT: Final = "silent"


class ControlPlane:
    """``ask`` gives an ``Overview`` as JSON; it may raise any ``RequestError``."""

    def __init__(self, ask: Callable[[], Awaitable[bytes]], *, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._question: asyncio.Future[bytes] | None = None
        self._known = Overview(ControllerReport(SILENT), (), {})
        self._answered = float("-inf")

    async def look(self) -> Overview:
        """The latest that is known. Never raises."""
        if self._question is None:
            self._question = asyncio.ensure_future(self._ask())
        await asyncio.wait((self._question,), timeout=ASK_TIMEOUT_S)
        detail = f"no answer within {ASK_TIMEOUT_S:g} s"
        if self._question.done():
            question, self._question = self._question, None
            try:
                self._known = msgspec.json.decode(question.result(), type=Overview)
                self._answered = self._clock.monotonic()
            except asyncio.CancelledError:
                detail = "this gateway leaves"
            except (RequestError, ValueError) as error:
                detail = str(error)
            else:
                return self._known
        if self._clock.monotonic() - self._answered <= SILENT_AFTER_S:
            return self._known
        last = msgspec.structs.replace(self._known.controller, state=SILENT, detail=detail)
        return msgspec.structs.replace(self._known, controller=last)

    def close(self) -> None:
        """Give up the question that may be open; whoever waits for it hears that there is no answer."""
        if self._question is not None:
            self._question.cancel()
