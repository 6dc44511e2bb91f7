"""The gateway's end of the tensor channel: one connection to one replica.

Not here: which replicas there are (``serving.channel.membership``), what to send where (``serving.request.lane``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from serving.channel.address import Address, UnixAddress
from serving.channel.busy_poll import BusyPoll
from serving.channel.frames import Frame, FrameReader, Kind, ProtocolError, frame_bytes, write_buffers
from serving.channel.messages import (
    PROTOCOL_VERSION,
    CancelHead,
    ErrorHead,
    GoodbyeHead,
    Hello,
    PingHead,
    ResultHead,
    read_answer,
    read_head,
    small_frame,
    work_frame,
)
from serving.channel.work import Answer, Report, Work
from serving.clock import Clock
from serving.errors import (
    AttemptError,
    InvalidAnswer,
    ModelFailed,
    PayloadTooLarge,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
    error_class,
)

log = logging.getLogger("holdfast.channel")

_REPORTED: Final = (ReplicaUnavailable, ReplicaLost, ModelFailed, InvalidAnswer, PayloadTooLarge)

_NOTHING_TO_REPORT: Final = Report()


def error_from_wire(head: ErrorHead) -> RequestError:
    """The error that a replica reported; one that isn't a replica's to report is ``Internal``."""
    return error_class(head.code, among=_REPORTED)(head.message)


def too_large(size: int, limit: int) -> PayloadTooLarge:
    """What a caller is told whose tensors don't fit a frame."""
    return PayloadTooLarge(f"the tensors need {size} bytes on their way to the model; at most {limit} can be sent")


class NobodyAnswers(ReplicaUnavailable):
    """The replica's process is gone, or hangs: its address is there, or was, and nobody answers behind it."""


class ChannelClient(asyncio.BufferedProtocol):
    """A ``ReplicaClient`` over a socket. Made by ``connect``; of no more use once it is lost."""

    def __init__(
        self,
        replica_id: str,
        *,
        clock: Clock,
        max_frame_bytes: int,
        on_change: Callable[[ChannelClient], None],
        busy_poll_s: float = 0.0,
    ) -> None:
        self._replica_id = replica_id
        self._clock = clock
        self._on_change = on_change
        self._max_frame_bytes = max_frame_bytes
        self._busy_poll = BusyPoll(clock, limit_s=busy_poll_s)
        self._reader = FrameReader(max_frame_bytes=max_frame_bytes)
        self._loop = asyncio.get_running_loop()
        self._batches: dict[int, asyncio.Future[Answer]] = {}
        self._numbers = itertools.count(1)
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[Hello] = self._loop.create_future()
        self._leaving = False
        self._gone = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._pings: dict[int, asyncio.Future[PingHead]] = {}

    @classmethod
    async def connect(
        cls,
        replica_id: str,
        address: Address,
        *,
        clock: Clock,
        max_frame_bytes: int,
        timeout_s: float,
        on_change: Callable[[ChannelClient], None],
        secret: str = "",
        busy_poll_s: float = 0.0,
    ) -> ChannelClient:
        """Dial ``address`` and agree on the protocol.

        ``on_change`` is called whenever an answer arrives or the replica becomes unusable. Raises
        ``ReplicaUnavailable`` when there is no answer within ``timeout_s`` seconds or the peer isn't ours.
        """
        client = cls(
            replica_id,
            clock=clock,
            max_frame_bytes=max_frame_bytes,
            on_change=on_change,
            busy_poll_s=busy_poll_s,
        )
        try:
            async with asyncio.timeout(timeout_s):
                hello = await client._greet(address, secret)
            if hello.protocol != PROTOCOL_VERSION:
                raise ReplicaUnavailable(f"{replica_id} speaks protocol {hello.protocol}, not {PROTOCOL_VERSION}")
        except (ConnectionRefusedError, TimeoutError) as error:
            await client.close()
            raise NobodyAnswers(f"nobody answers for {replica_id} at {address}: {str(error) or 'timed out'}") from None
        except (OSError, ReplicaLost) as error:
            await client.close()
            raise ReplicaUnavailable(f"no tensor channel to {replica_id} at {address}: {error}") from None
        except BaseException:  # whoever dialled was cancelled
            await client.close()
            raise
        return client

    async def _greet(self, address: Address, secret: str) -> Hello:
        if isinstance(address, UnixAddress):
            await self._loop.create_unix_connection(lambda: self, address.path)
        else:
            await self._loop.create_connection(lambda: self, address.host, address.port)
        self._send(Kind.HELLO, Hello(PROTOCOL_VERSION, secret))
        return await self._greeting

    @property
    def replica_id(self) -> str:
        return self._replica_id

    @property
    def live(self) -> bool:
        return self._transport is not None and not self._leaving

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._transport is None

    @property
    def outstanding(self) -> int:
        return len(self._batches)

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self._transport is None or self._leaving:
            answer.set_exception(ReplicaUnavailable(f"the tensor channel to {self._replica_id} is closed"))
            return answer
        batch = next(self._numbers)
        buffers = work_frame(batch, work, now=self._clock.monotonic())
        if (size := frame_bytes(buffers)) > self._max_frame_bytes:  # the replica would hang up on everyone
            answer.set_exception(too_large(size, self._max_frame_bytes))
            return answer
        self._batches[batch] = answer
        self._idle.clear()
        answer.add_done_callback(functools.partial(self._forget_cancelled, batch, len(work.rows)))
        write_buffers(self._transport, buffers)
        if len(self._batches) == 1 and len(work.rows) == 1:
            self._busy_poll.rest()
        return answer

    def _forget_cancelled(self, batch: int, requests: int, answer: asyncio.Future[Answer]) -> None:
        if answer.cancelled() and batch in self._batches:
            for item in range(requests):
                self._send(Kind.CANCEL, CancelHead(batch, item))

    def forget(self, answer: asyncio.Future[Answer], item: int) -> None:
        for batch, waiting in self._batches.items():
            if waiting is answer:
                self._send(Kind.CANCEL, CancelHead(batch, item))
                return

    async def ping(self, timeout_s: float, report: Report = _NOTHING_TO_REPORT) -> PingHead:
        """The replica's word on itself; raises ``ReplicaLost`` if there is none within ``timeout_s`` seconds.

        The replica hears ``report``.
        """
        if self._transport is None:
            raise ReplicaLost(f"the tensor channel to {self._replica_id} is closed")
        nonce = next(self._numbers)
        reply: asyncio.Future[PingHead] = self._loop.create_future()
        self._pings[nonce] = reply
        try:
            self._send(Kind.PING, PingHead(nonce, demand=report.demand, ejected_s=report.ejected_s))
            async with asyncio.timeout(timeout_s):
                return await reply
        except TimeoutError:
            raise ReplicaLost(f"{self._replica_id} hasn't answered a ping for {timeout_s:g} s") from None
        finally:
            del self._pings[nonce]

    async def gone(self, timeout_s: float) -> bool:
        """Wait until the replica takes no more work, at most ``timeout_s`` seconds; whether it came to that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._gone.wait()
        return self._gone.is_set()

    async def drained(self) -> None:
        """Returns when nothing is in flight: the replica has answered all of it, or is lost."""
        await self._idle.wait()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._fail("the gateway closed the tensor channel")

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "the replica closed the tensor channel")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for frame in self._reader.buffer_updated(nbytes):
                self._take(frame)
        except ProtocolError as error:
            log.warning("replica %s broke the tensor channel's protocol: %s", self._replica_id, error)
            if self._transport is not None:
                self._transport.abort()
            self._fail(str(error))

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.RESULT:
            head = read_head(frame, ResultHead)
            self._settle(head.id, read_answer(head, frame))
        elif frame.kind == Kind.ERROR:
            error = read_head(frame, ErrorHead)
            if error.id == 0:
                raise ProtocolError(f"the replica refused us: {error.message}")
            self._settle(error.id, error_from_wire(error))
        elif frame.kind == Kind.PING:
            reply = read_head(frame, PingHead)
            if (waiting := self._pings.get(reply.nonce)) is not None and not waiting.done():
                waiting.set_result(reply)
        elif frame.kind == Kind.GOODBYE:
            log.info("replica %s says goodbye: %s", self._replica_id, read_head(frame, GoodbyeHead).reason)
            self._leaving = True
            self._gone.set()
            self._on_change(self)
        elif frame.kind == Kind.HELLO and not self._greeting.done():
            self._greeting.set_result(read_head(frame, Hello))
        else:
            raise ProtocolError(f"a replica doesn't send {Kind(frame.kind).name} now")

    def _settle(self, batch: int, outcome: Answer | RequestError) -> None:
        self._busy_poll.woken()
        answer = self._batches.pop(batch, None)
        if answer is None:
            raise ProtocolError(f"an answer to batch {batch}, which isn't in flight")
        if not self._batches:
            self._idle.set()
        if not answer.done():
            if isinstance(outcome, Answer):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)
        self._on_change(self)

    def _send(self, kind: Kind, head: CancelHead | Hello | PingHead) -> None:
        if self._transport is not None:
            self._transport.write(small_frame(kind, head))

    def _fail(self, reason: str) -> None:
        """Fail everything that is in flight, once, as retryable."""
        if self._transport is None and not self._batches and self._greeting.done():
            return
        self._transport = None
        self._gone.set()
        lost: AttemptError = ReplicaLost(f"replica {self._replica_id}: {reason}")
        waiting: list[asyncio.Future[Any]] = [*self._batches.values(), *self._pings.values()]
        self._batches.clear()
        self._idle.set()
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
        if not self._greeting.done():
            self._greeting.set_exception(lost)
            self._greeting.exception()  # connect() may be gone already
        self._on_change(self)
