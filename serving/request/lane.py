"""The way of one model version's requests: a queue, batches without a timer, and the replicas they go to.

While every replica has its share of batches in flight, requests wait; when one comes back, whatever is compatible
in the queue leaves together. A lone request leaves at once. Not here: which version a request goes to
(``serving.routing``), connections (``serving.channel``), and what happens after a failed attempt.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.inference import InferenceRequest, Tensors
from models.signature import Signature
from serving.channel.work import Answer, ReplicaClient, Report
from serving.clock import Clock
from serving.errors import DeadlineExceeded, Internal, InvalidAnswer, ModelFailed, ReplicaUnavailable, RequestError
from serving.request.batch import Key, answered_rows, batch_key, fixed_shapes, join, request_bytes, split
from serving.request.check import form_fault, unfinite
from serving.request.deadline import Deadlines


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How much goes together and how much is under way."""

    max_batch_rows: int = 64
    max_batch_bytes: int = 8 << 20
    inflight_batches: int = 1
    """Batches in flight to each replica."""
    max_waiting: int = 4096
    """Requests in the queue; more are refused."""


@dataclass(slots=True)
class LaneStats:
    """What the lane has done since it was made; times in seconds."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failed: int = 0
    success_s: float = 0.0
    fail_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    last_wall: float = 0.0


@dataclass(slots=True, eq=False)
class Pending:
    """One request in the lane."""

    lane: Lane
    request: InferenceRequest
    deadline: float
    key: Key
    answer: asyncio.Future[Tensors]
    since: float
    batch: _Batch | None = None

    def expire(self) -> None:
        where = "waiting for its turn" if self.batch is None else f"waiting for {self.lane.name}"
        text = f"the deadline of {self.deadline - self.since:.3f} s passed while the request was {where}"
        self.lane.expired(self, DeadlineExceeded(text))


@dataclass(slots=True, eq=False)
class _Batch:
    members: list[Pending]
    client: ReplicaClient
    answer: asyncio.Future[Answer] = field(init=False)


class Lane:
    """Everything between a routed request and an answer of its version."""

    def __init__(
        self, name: str, signature: Signature, *, finite: bool, limits: LaneLimits, clock: Clock, deadlines: Deadlines
    ) -> None:
        self.name = name
        self.stats = LaneStats()
        self._signature = signature
        self._finite = finite
        self._limits = limits
        self._clock = clock
        self._deadlines = deadlines
        self._fixed = fixed_shapes(signature)
        self._queue: OrderedDict[Pending, None] = OrderedDict()
        self._isolated: deque[list[Pending]] = deque()
        self._clients: dict[str, ReplicaClient] = {}
        self._safety_net: ReplicaClient | None = None
        self._inflight = 0
        self._requests_inflight = 0

    # Who can do the work

    def attach(self, client: ReplicaClient) -> None:
        """Send work through this client from now on."""
        self._clients[client.replica_id] = client
        self.pump()

    def detach(self, client: ReplicaClient) -> None:
        if self._clients.get(client.replica_id) is client:
            del self._clients[client.replica_id]
        self.pump()

    def set_safety_net(self, client: ReplicaClient) -> None:
        """The client that is used while no other one is live."""
        self._safety_net = client

    @property
    def ready(self) -> bool:
        """Whether any replica can take work now."""
        return self._any_live() or (self._safety_net is not None and self._safety_net.live)

    @property
    def live_channels(self) -> int:
        return sum(client.live for client in self._clients.values())

    @property
    def waiting(self) -> int:
        return len(self._queue) + sum(map(len, self._isolated))

    @property
    def inflight_batches(self) -> int:
        return self._inflight

    def report(self, client: ReplicaClient) -> Report:
        """What a replica is told: its share of the requests that are here, and how long it has been ejected."""
        return Report((self.waiting + self._requests_inflight) / max(1, self.live_channels), 0.0)

    async def close(self) -> None:
        """Fail what waits and close every client."""
        clients = [*self._clients.values(), *([self._safety_net] if self._safety_net else [])]
        self._clients.clear()
        self._safety_net = None
        self._fail_waiting(f"{self.name} was unloaded")
        for client in clients:
            await client.close()

    # Requests

    def submit(self, request: InferenceRequest, deadline: float) -> Pending:
        """Queue a request; ``answer`` of the result ends with its outputs or a ``RequestError``.

        Raises ``DeadlineExceeded`` when its time is over already, and ``ReplicaUnavailable`` at once when no replica
        can take work or the queue is full.
        """
        now = self._clock.monotonic()
        if deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request was decoded")
        if not self.ready:
            raise ReplicaUnavailable(f"no replica of {self.name} can take work now")
        if len(self._queue) >= self._limits.max_waiting:
            raise ReplicaUnavailable(f"{len(self._queue)} requests wait for {self.name} already")
        answer: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        key = batch_key(request, fixed=self._fixed)
        pending = Pending(self, request, deadline, key, answer, now)
        self._queue[pending] = None
        self._deadlines.watch(pending)
        self.pump()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for this request any more: it isn't sent, or its replica is told."""
        self._deadlines.forget(pending)
        batch = pending.batch
        if batch is None:
            self._queue.pop(pending, None)
        elif all(member.answer.done() for member in batch.members):
            batch.answer.cancel()
        else:
            batch.client.forget(batch.answer, batch.members.index(pending))

    def expired(self, pending: Pending, error: DeadlineExceeded) -> None:
        """The deadline of this request has passed."""
        if not pending.answer.done():
            self._end(pending, error)
            self.abandon(pending)

    def pump(self) -> None:
        """Send what can be sent now. Called when a request, an answer or a replica comes or goes."""
        while self._queue or self._isolated:
            client = self._free_client()
            if client is None:
                if not self.ready:
                    self._fail_waiting(f"the last replica of {self.name} is gone")
                return
            members = self._next_batch()
            if not members:
                return
            self._send(members, client)

    def _free_client(self) -> ReplicaClient | None:
        """The live replica with the fewest batches outstanding, if any has room."""
        best: ReplicaClient | None = None
        fewest = self._limits.inflight_batches
        for client in self._clients.values():
            if client.live and client.outstanding < fewest:
                best, fewest = client, client.outstanding
        if best is None and self._safety_net is not None and self._safety_net.live and not self._any_live():
            return self._safety_net if self._safety_net.outstanding < self._limits.inflight_batches else None
        return best

    def _any_live(self) -> bool:
        for client in self._clients.values():  # noqa: SIM110  # `any` with a generator costs three times as much here
            if client.live:
                return True
        return False

    def _next_batch(self) -> list[Pending]:
        while self._isolated:
            if members := [pending for pending in self._isolated.popleft() if not pending.answer.done()]:
                return members
        return self._take_compatible()

    def _take_compatible(self) -> list[Pending]:
        """The first waiting request, and those behind it that can go with it."""
        limits = self._limits
        members: list[Pending] = []
        rows = size = 0
        for pending in self._queue:
            if pending.answer.done() or (members and pending.key != members[0].key):
                continue
            rows += pending.request.rows
            size += request_bytes(pending.request)
            if members and (rows > limits.max_batch_rows or size > limits.max_batch_bytes):
                break
            members.append(pending)
            if not self._signature.batched:
                break
        for pending in members:
            del self._queue[pending]
        return members

    def _send(self, members: list[Pending], client: ReplicaClient) -> None:
        batch = _Batch(members, client)
        now = self._clock.monotonic()
        stats = self.stats
        for pending in members:
            pending.batch = batch
            stats.queue_s += now - pending.since
        work = join([pending.request for pending in members], [pending.deadline for pending in members])
        self._inflight += 1
        self._requests_inflight += len(members)
        batch.answer = client.submit(work)
        batch.answer.add_done_callback(lambda _: self._returned(batch))

    # Answers

    def _returned(self, batch: _Batch) -> None:
        self._inflight -= 1
        self._requests_inflight -= len(batch.members)
        self.stats.batches += 1
        if not batch.answer.cancelled():
            error = batch.answer.exception()
            if error is None:
                self._deliver(batch, batch.answer.result())
            elif isinstance(error, RequestError):
                self._failed(batch.members, error)
            else:
                self._end_all(batch.members, Internal(f"{self.name}: {type(error).__name__}: {error}"))
        self.pump()

    def _deliver(self, batch: _Batch, answer: Answer) -> None:
        members = batch.members
        self.stats.compute_s += answer.compute_s
        if answer.dropped:
            if not all(0 <= index < len(members) for index in answer.dropped):
                self._end_all(members, InvalidAnswer(f"{self.name} dropped requests that it wasn't sent"))
                return
            for index in answer.dropped:
                self._end(members[index], DeadlineExceeded(f"{self.name} dropped the request: its deadline had passed"))
            members = [pending for index, pending in enumerate(members) if index not in answer.dropped]
            if not members:
                return
        rows = answered_rows([pending.request.rows for pending in batch.members], answer)
        if (fault := form_fault(self._signature, answer.outputs, rows)) is not None:
            self._failed(members, InvalidAnswer(f"{self.name} gave an invalid answer: {fault}"))
            return
        faults = unfinite(answer.outputs, rows, batched=self._signature.batched) if self._finite else {}
        self.stats.last_wall = self._clock.wall()
        for index, (pending, outputs) in enumerate(zip(members, split(answer.outputs, rows), strict=True)):
            if faults and index in faults:
                self._end(pending, InvalidAnswer(f"{self.name} gave an invalid answer: {faults[index]}"))
            else:
                self._end(pending, outputs)

    def _failed(self, members: list[Pending], error: RequestError) -> None:
        """End a failed batch; if its content may be to blame, find the guilty request first."""
        if isinstance(error, ModelFailed | InvalidAnswer) and len(members) > 1:
            middle = len(members) // 2
            for half in (members[:middle], members[middle:]):
                self._isolated.append(half)
                for pending in half:
                    pending.batch = None
        else:
            self._end_all(members, error)

    def _fail_waiting(self, reason: str) -> None:
        waiting = [*self._queue, *(pending for group in self._isolated for pending in group)]
        self._queue.clear()
        self._isolated.clear()
        self._end_all(waiting, ReplicaUnavailable(reason))

    def _end_all(self, members: Sequence[Pending], error: RequestError) -> None:
        for pending in members:
            self._end(pending, error)

    def _end(self, pending: Pending, outcome: Tensors | RequestError) -> None:
        if pending.answer.done():
            return
        self._deadlines.forget(pending)
        stats = self.stats
        took = self._clock.monotonic() - pending.since
        if isinstance(outcome, RequestError):
            stats.failed += 1
            stats.fail_s += took
            pending.answer.set_exception(outcome)
        else:
            stats.requests += 1
            stats.rows += pending.request.rows
            stats.success_s += took
            pending.answer.set_result(outcome)
