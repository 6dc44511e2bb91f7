"""The replica's end of the tensor channel: accepts gateways, hands their work to the model, sends answers back.

Not here: running the model (``serving.channel.runner``), the gateway's end (``serving.channel.client``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, cast

from serving.channel.address import Address, TcpAddress, UnixAddress
from serving.channel.busy_poll import BusyPoll
from serving.channel.frames import Frame, FrameReader, Kind, ProtocolError, write_buffers
from serving.channel.messages import (
    PROTOCOL_VERSION,
    CancelHead,
    ErrorHead,
    GoodbyeHead,
    Hello,
    PingHead,
    outcome_frame,
    read_head,
    read_work,
    small_frame,
)
from serving.channel.reports import Reports
from serving.channel.runner import Job, ModelRunner, Outcome
from serving.channel.work import Report
from serving.clock import Clock

log = logging.getLogger("holdfast.channel")

GREETING_MAX_BYTES: Final = 1 << 16
"""Nobody who hasn't shown the secret can make a replica take more memory than this."""

FLUSH_TIMEOUT_S: Final = 2.0
HANG_UP_TIMEOUT_S: Final = 1.0
"""How long a replica that leaves waits for gateways to hang up."""


class TensorServer:
    """Listens for gateways and serves them from one ``ModelRunner``."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        hello: Hello,
        clock: Clock,
        max_frame_bytes: int,
        secret: str = "",
        busy_poll_s: float = 0.0,
    ) -> None:
        self.runner = runner
        self.hello = hello
        self.clock = clock
        self.max_frame_bytes = max_frame_bytes
        self.busy_poll = BusyPoll(clock, limit_s=busy_poll_s)
        self.connection: Callable[[TensorServer], Connection] = Connection
        self.reports = Reports()
        self._secret = secret
        self._connections: set[Connection] = set()
        self._alone = asyncio.Event()
        self._alone.set()
        self._leaving: str | None = None
        self._server: asyncio.Server | None = None
        self._socket_path: Path | None = None

    async def start(self, address: Address) -> Address:
        """Listen at ``address``; returns the address that gateways can dial (port 0 becomes a real port)."""
        loop = asyncio.get_running_loop()
        if isinstance(address, UnixAddress):
            path = Path(address.path)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._server = await loop.create_unix_server(lambda: self.connection(self), str(path))
            path.chmod(0o600)
            self._socket_path = path
            return address
        self._server = await loop.create_server(lambda: self.connection(self), address.host, address.port)
        return TcpAddress(address.host, self._server.sockets[0].getsockname()[1])

    async def start_at_first(self, addresses: Iterable[Address]) -> Address:
        """Listen at the first of ``addresses`` that is free; raises ``OSError`` if none is."""
        taken = OSError(errno.EADDRINUSE, "no address is free")
        for address in addresses:
            try:
                return await self.start(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken = error
        raise taken

    def accepts(self, secret: str) -> bool:
        """Whether a gateway that shows this secret may send work."""
        return hmac.compare_digest(secret.encode(), self._secret.encode())

    def joined(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._alone.clear()

    def left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.reports.forget(connection)
        if not self._connections:
            self._alone.set()

    @property
    def leaving(self) -> str | None:
        """Why the replica takes no new work, if so."""
        return self._leaving

    async def drain(self, reason: str) -> None:
        """Say goodbye to every gateway, also to those that dial from now on, and wait until all work is answered.

        A gateway that has heard it and has all its answers hangs up; until then work may be on its way here.
        """
        self._leaving = reason
        for connection in tuple(self._connections):
            connection.say_goodbye(reason)
        await self.runner.drained()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await self._alone.wait()
        await self.runner.drained()

    async def close(self) -> None:
        """Stop listening and end every connection, once all is sent; one whose gateway doesn't read is cut."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.cut()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._alone.wait()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
            await self._alone.wait()


class Connection(asyncio.BufferedProtocol):
    """One gateway."""

    def __init__(self, server: TensorServer) -> None:
        self._server = server
        self._reader = FrameReader(max_frame_bytes=min(GREETING_MAX_BYTES, server.max_frame_bytes))
        self._jobs: dict[int, Job] = {}
        self._greeted = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.left(self)
        for job in self._jobs.values():
            job.unwanted.update(range(len(job.work.rows)))
        self._jobs.clear()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._server.busy_poll.woken()
        try:
            for frame in self._reader.buffer_updated(nbytes):
                self._take(frame)
        except ProtocolError as error:
            log.warning("a gateway broke the tensor channel's protocol: %s", error)
            self._send(Kind.ERROR, ErrorHead(0, "protocol", str(error)))
            self.cut()

    def say_goodbye(self, reason: str) -> None:
        self._send(Kind.GOODBYE, GoodbyeHead(reason))

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if not self._greeted:
            self._greet(frame)
        elif frame.kind == Kind.INFER:
            self._infer(frame)
        elif frame.kind == Kind.PING:
            self._answer_ping(read_head(frame, PingHead))
        elif frame.kind == Kind.CANCEL:
            cancel = read_head(frame, CancelHead)
            if (job := self._jobs.get(cancel.id)) is not None:
                job.unwanted.add(cancel.item)
        else:
            raise ProtocolError(f"a gateway doesn't send {Kind(frame.kind).name}")

    def _greet(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO:
            raise ProtocolError("the first frame isn't HELLO")
        hello = read_head(frame, Hello)
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol {hello.protocol}; this replica speaks {PROTOCOL_VERSION}")
        if not self._server.accepts(hello.secret):
            raise ProtocolError("the gateway's secret isn't ours")
        self._greeted = True
        self._reader.max_frame_bytes = self._server.max_frame_bytes
        self._send(Kind.HELLO, self._server.hello)
        if self._server.leaving is not None:
            self.say_goodbye(self._server.leaving)

    def _infer(self, frame: Frame) -> None:
        batch, work = read_work(frame, now=self._server.clock.monotonic())
        if batch in self._jobs:
            raise ProtocolError(f"batch {batch} is in flight already")
        # The runner answers on this loop, later or (when it refuses) at once; `_jobs` must know the batch first.
        self._jobs[batch] = Job(work, lambda outcome: self._answer(batch, outcome, len(work.rows)))
        self._server.runner.submit(self._jobs[batch])

    def _answer(self, batch: int, outcome: Outcome, requests: int) -> None:
        if self._jobs.pop(batch, None) is None or self._transport is None:
            return
        limit = self._server.max_frame_bytes
        write_buffers(self._transport, outcome_frame(batch, outcome, requests=requests, max_frame_bytes=limit))
        if requests == 1 and not self._server.runner.unfinished:
            self._server.busy_poll.rest()

    def _answer_ping(self, ping: PingHead) -> None:
        server, runner = self._server, self._server.runner
        server.reports.heard(self, Report(ping.demand, ping.ejected_s), now=server.clock.monotonic())
        reply = PingHead(ping.nonce, True, runner.unfinished, int(runner.running_s * 1e6))
        self._send(Kind.PING, reply)

    def _send(self, kind: Kind, head: ErrorHead | GoodbyeHead | Hello | PingHead) -> None:
        if self._transport is not None:
            self._transport.write(small_frame(kind, head))
