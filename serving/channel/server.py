"""The replica's end of the tensor channel: accepts gateways, hands their work to the model, sends answers back.

Not here: running the model (``serving.channel.runner``), the gateway's end (``serving.channel.client``).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from pathlib import Path
from typing import cast

from serving.channel.address import Address, TcpAddress, UnixAddress
from serving.channel.frames import Frame, FrameReader, Kind, ProtocolError, write_buffers
from serving.channel.messages import (
    PROTOCOL_VERSION,
    CancelHead,
    ErrorHead,
    GoodbyeHead,
    Hello,
    PingHead,
    answer_frame,
    read_head,
    read_work,
    small_frame,
)
from serving.channel.runner import Job, ModelRunner, Outcome
from serving.channel.work import Answer
from serving.clock import Clock

log = logging.getLogger("holdfast.channel")


class TensorServer:
    """Listens for gateways and serves them from one ``ModelRunner``."""

    def __init__(
        self, runner: ModelRunner, *, hello: Hello, clock: Clock, max_frame_bytes: int, secret: str = ""
    ) -> None:
        self.runner = runner
        self.hello = hello
        self.clock = clock
        self.max_frame_bytes = max_frame_bytes
        self._secret = secret
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._socket_path: Path | None = None

    async def start(self, address: Address) -> Address:
        """Listen at ``address``; returns the address that gateways can dial (port 0 becomes a real port)."""
        loop = asyncio.get_running_loop()
        if isinstance(address, UnixAddress):
            path = Path(address.path)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._server = await loop.create_unix_server(lambda: _Connection(self), str(path))
            path.chmod(0o600)
            self._socket_path = path
            return address
        self._server = await loop.create_server(lambda: _Connection(self), address.host, address.port)
        return TcpAddress(address.host, self._server.sockets[0].getsockname()[1])

    def accepts(self, secret: str) -> bool:
        """Whether a gateway that shows this secret may send work."""
        return hmac.compare_digest(secret.encode(), self._secret.encode())

    def joined(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def left(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    async def drain(self, reason: str) -> None:
        """Say goodbye to every gateway and wait until all work is answered."""
        for connection in tuple(self._connections):
            connection.say_goodbye(reason)
        await self.runner.drained()

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.cut()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)


class _Connection(asyncio.BufferedProtocol):
    """One gateway."""

    def __init__(self, server: TensorServer) -> None:
        self._server = server
        self._reader = FrameReader(max_frame_bytes=server.max_frame_bytes)
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
        self._send(Kind.HELLO, self._server.hello)

    def _infer(self, frame: Frame) -> None:
        batch, work = read_work(frame, now=self._server.clock.monotonic())
        if batch in self._jobs:
            raise ProtocolError(f"batch {batch} is in flight already")
        # The runner answers on this loop, later or (when it refuses) at once; `_jobs` must know the batch first.
        self._jobs[batch] = Job(work, lambda outcome: self._answer(batch, outcome))
        self._server.runner.submit(self._jobs[batch])

    def _answer(self, batch: int, outcome: Outcome) -> None:
        if self._jobs.pop(batch, None) is None or self._transport is None:
            return
        if isinstance(outcome, Answer):
            write_buffers(self._transport, answer_frame(batch, outcome))
        else:
            self._send(Kind.ERROR, ErrorHead(batch, outcome.code, outcome.message))

    def _answer_ping(self, ping: PingHead) -> None:
        runner = self._server.runner
        reply = PingHead(ping.nonce, True, runner.unfinished, int(runner.running_s * 1e6))
        self._send(Kind.PING, reply)

    def _send(self, kind: Kind, head: ErrorHead | GoodbyeHead | Hello | PingHead) -> None:
        if self._transport is not None:
            self._transport.write(small_frame(kind, head))
