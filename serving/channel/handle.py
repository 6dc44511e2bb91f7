"""The safety net: the same frames through a Serve handle, for a version that has no live tensor channel.

Slower, but Ray finds the replica. Not here: the handle itself; ``serving.deployments`` hands in a plain function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from serving.channel.client import error_from_wire
from serving.channel.frames import FrameReader, Kind, ProtocolError
from serving.channel.messages import (
    ErrorHead,
    ResultHead,
    answer_frame,
    read_answer,
    read_head,
    read_work,
    small_frame,
    work_frame,
)
from serving.channel.runner import ModelRunner, Outcome, settle
from serving.channel.work import Answer, Work
from serving.clock import Clock
from serving.errors import Internal, ReplicaLost, ReplicaUnavailable, RequestError

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
        for answer in tuple(self._tasks):
            settle(answer, ReplicaLost(f"the gateway closed the way to {self._name}"))

    async def _send(self, work: Work, answer: asyncio.Future[Answer]) -> None:
        now = self._clock.monotonic()
        frame = b"".join(work_frame(1, work, now=now))
        try:
            # A handle call can hang for ever, so nobody waits longer than the last of the batch could use.
            async with asyncio.timeout(max(work.deadlines) - now):
                settle(answer, self._read(await self._call(frame)))
        except RequestError as error:
            settle(answer, error)
        except ProtocolError as error:
            settle(answer, Internal(f"{self._name}: {error}"))
        except TimeoutError:
            settle(answer, ReplicaLost(f"no answer through {self._name} in time"))

    def _read(self, raw: bytes) -> Outcome:
        frames = FrameReader(max_frame_bytes=self._max_frame_bytes).feed(raw)
        if len(frames) != 1:
            raise ProtocolError(f"{len(frames)} frames where one was due")
        frame = frames[0]
        if frame.kind == Kind.ERROR:
            return error_from_wire(read_head(frame, ErrorHead))
        return read_answer(read_head(frame, ResultHead), frame)

    def _done(self, answer: asyncio.Future[Answer]) -> None:
        task = self._tasks.pop(answer)
        if answer.cancelled() or self._closed:
            task.cancel()
        self._on_change()


async def answer_call(raw: bytes, runner: ModelRunner, *, clock: Clock, max_frame_bytes: int) -> bytes:
    """The replica's end: the answer frame to a work frame that came through the handle."""
    try:
        frames = FrameReader(max_frame_bytes=max_frame_bytes).feed(raw)
        if len(frames) != 1 or frames[0].kind != Kind.INFER:
            raise ProtocolError("not one INFER frame")
        _, work = read_work(frames[0], now=clock.monotonic())
        return b"".join(answer_frame(1, await runner.run(work)))
    except ProtocolError as error:
        return small_frame(Kind.ERROR, ErrorHead(1, Internal.code, str(error)))
    except RequestError as error:
        return small_frame(Kind.ERROR, ErrorHead(1, error.code, error.message))
