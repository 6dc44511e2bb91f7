"""The safety net: the same frames through a Serve handle, for a version that has no live tensor channel.

Slower, but Ray finds the replica. Not here: the handle itself; ``serving.deployments.link`` hands in a plain function.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from serving.channel.client import error_from_wire, too_large
from serving.channel.frames import Kind, ProtocolError, frame_bytes, read_frame
from serving.channel.messages import (
    ErrorHead,
    ResultHead,
    error_frame,
    outcome_frame,
    read_answer,
    read_head,
    read_work,
    work_frame,
)
from serving.channel.runner import ModelRunner, Outcome, settle
from serving.channel.work import Answer, Work
from serving.clock import Clock
from serving.errors import DeadlineExceeded, Internal, ReplicaLost, ReplicaUnavailable, RequestError

log = logging.getLogger("holdfast.channel")

Call = Callable[[bytes], Awaitable[bytes]]
"""Sends a frame to any replica of the version and returns its answer frame; raises a ``RequestError``."""


class HandleClient:
    """A ``ReplicaClient`` over a function that carries one frame there and one back."""

    def __init__(
        self,
        name: str,
        call: Call,
        *,
        clock: Clock,
        max_frame_bytes: int,
        available: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._name = name
        self._call = call
        self._clock = clock
        self._max_frame_bytes = max_frame_bytes
        self._available = available
        self._on_change = on_change
        self._tasks: dict[asyncio.Future[Answer], asyncio.Task[None]] = {}
        self._closed = False

    @property
    def replica_id(self) -> str:
        return self._name

    @property
    def live(self) -> bool:
        return not self._closed and self._available()

    @property
    def outstanding(self) -> int:
        return len(self._tasks)

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        if self._closed:
            answer.set_exception(ReplicaUnavailable(f"the way to {self._name} is closed"))
            return answer
        self._tasks[answer] = loop.create_task(self._send(work, answer))
        answer.add_done_callback(self._done)
        return answer

    def forget(self, answer: asyncio.Future[Answer], item: int) -> None:
        """Nothing to send: a request inside a handle call can't be taken back alone; its deadline ends it."""

    async def close(self) -> None:
        self._closed = True
        tasks = dict(self._tasks)
        for answer, task in tasks.items():
            settle(answer, ReplicaLost(f"the gateway closed the way to {self._name}"))
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _send(self, work: Work, answer: asyncio.Future[Answer]) -> None:
        try:
            outcome = await self._outcome(work)
        except Exception as error:  # whoever waits for the answer must hear of it
            log.exception("a call through %s failed", self._name)
            outcome = Internal(f"{self._name}: {type(error).__name__}: {error}")
        settle(answer, outcome)

    async def _outcome(self, work: Work) -> Outcome:
        now = self._clock.monotonic()
        buffers = work_frame(1, work, now=now)
        if (size := frame_bytes(buffers)) > self._max_frame_bytes:
            return too_large(size, self._max_frame_bytes)
        try:
            # A handle call can hang for ever, so nobody waits longer than the last of the batch could use.
            async with asyncio.timeout(max(work.deadlines) - now):
                return self._read(await self._call(b"".join(buffers)))
        except RequestError as error:
            return error
        except TimeoutError:
            return DeadlineExceeded(f"no answer through {self._name} before the deadline")

    def _read(self, raw: bytes) -> Outcome:
        frame = read_frame(raw, max_frame_bytes=self._max_frame_bytes)
        if frame.kind == Kind.ERROR:
            return error_from_wire(read_head(frame, ErrorHead))
        return read_answer(read_head(frame, ResultHead), frame)

    def _done(self, answer: asyncio.Future[Answer]) -> None:
        task = self._tasks.pop(answer)
        if answer.cancelled():
            task.cancel()
        self._on_change()


async def answer_call(raw: bytes, runner: ModelRunner, *, clock: Clock, max_frame_bytes: int) -> bytes:
    """The replica's end: the answer frame to a work frame that came through the handle."""
    try:
        frame = read_frame(raw, max_frame_bytes=max_frame_bytes)
        if frame.kind != Kind.INFER:
            raise ProtocolError(f"a gateway doesn't send {Kind(frame.kind).name} through the handle")
        _, work = read_work(frame, now=clock.monotonic())
        answer, requests = await runner.run(work), len(work.rows)
        return b"".join(outcome_frame(1, answer, requests=requests, max_frame_bytes=max_frame_bytes))
    except ProtocolError as error:
        return error_frame(1, Internal(str(error)))
    except RequestError as error:
        return error_frame(1, error)
