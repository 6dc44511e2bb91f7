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
        self._failure = ""

    async def look(self) -> Overview:
        """The latest that is known. Never raises."""
        question = self._question
        if question is None:
            self._question = question = asyncio.ensure_future(self._ask())
            question.add_done_callback(self._hear)
        await asyncio.wait((question,), timeout=ASK_TIMEOUT_S)
        if self._clock.monotonic() - self._answered <= SILENT_AFTER_S:
            return self._known
        detail = f"no answer within {ASK_TIMEOUT_S:g} s" if self._question is question else self._failure
        last = msgspec.structs.replace(self._known.controller, state=SILENT, detail=detail)
        return msgspec.structs.replace(self._known, controller=last)

    def _hear(self, question: asyncio.Future[bytes]) -> None:
        """Also when nobody waits any more: the next look then asks anew and isn't told how an old question ended."""
        self._question = None
        try:
            self._known = msgspec.json.decode(question.result(), type=Overview)
            self._answered = self._clock.monotonic()
        except asyncio.CancelledError:
            self._failure = "this gateway leaves"
        except (RequestError, ValueError) as error:
            self._failure = str(error)

    def close(self) -> None:
        """Give up the question that may be open; whoever waits for it hears that there is no answer."""
        if self._question is not None:
            self._question.cancel()
