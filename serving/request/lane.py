"""The way of one model version's requests: a queue, batches without a timer, and the replicas they go to.

While every replica has its share of batches in flight, requests wait; when one comes back, whatever is compatible
in the queue leaves together. A lone request leaves at once. Not here: which version a request goes to
(``serving.routing``), connections (``serving.channel``), and what happens after a failed attempt.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from models.inference import InferenceRequest, Tensors
from models.signature import Signature
from serving.channel.work import Answer, ReplicaClient, Report
from serving.clock import Clock
from serving.errors import (
    DeadlineExceeded,
    Internal,
    InvalidAnswer,
    ModelFailed,
    QueueTimeout,
    ReplicaUnavailable,
    RequestError,
)
from serving.request.batch import Key, answered_rows, batch_key, fixed_shapes, join, request_bytes, split
from serving.request.check import form_fault, unfinite
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.failures import failure_of
from serving.request.outlier import EjectionLimits


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How much goes together and how much is under way."""

    max_batch_rows: int = 64
    max_batch_bytes: int = 8 << 20
    inflight_batches: int = 1
    """Batches in flight to each replica."""
    max_waiting: int = 4096
    """Requests in the queue; more are refused."""


BATCH_SHARE: Final = 0.125
"""How much of the time that a request has left its batch may be expected to take. Behind a batch that is under way, and
beside another gateway's, it takes four times as long, and there has to be time for another attempt."""
PACE_WEIGHT: Final = 0.2
"""Of the newest batch, in what is known of the time for a row."""


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
    """One request in the lane. ``avoid`` is the replica that had it before; times in monotonic seconds."""

    lane: Lane
    request: InferenceRequest
    deadline: float
    key: Key
    answer: asyncio.Future[Tensors]
    since: float
    avoid: str | None = None
    batch: _Batch | None = None
    sent: float = 0.0

    def expire(self) -> None:
        self.lane.expired(self)

    @property
    def replica_id(self) -> str | None:
        """The replica that has or had the request."""
        return None if self.batch is None else self.batch.client.replica_id

    @property
    def waited_s(self) -> float:
        """How long it waited for its turn, once it has been sent."""
        return max(self.sent - self.since, 0.0)


@dataclass(slots=True, eq=False)
class _Batch:
    members: list[Pending]
    client: ReplicaClient
    sent: float
    answer: asyncio.Future[Answer] = field(init=False)


class _Group(NamedTuple):
    """Part of a batch that failed because of its content, and the replica that it failed on."""

    members: list[Pending]
    avoid: str


class Lane:
    """Everything between a routed request and an answer of its version."""

    def __init__(
        self,
        name: str,
        signature: Signature,
        *,
        finite: bool,
        limits: LaneLimits,
        clock: Clock,
        deadlines: Deadlines,
        outliers: Outliers | None = None,
    ) -> None:
        self.name = name
        self.stats = LaneStats()
        self._signature = signature
        self._finite = finite
        self._limits = limits
        self._clock = clock
        self._deadlines = deadlines
        self._fixed = fixed_shapes(signature)
        self._outliers = outliers or Outliers(EjectionLimits(enabled=False), clock=clock)
        self._queue: OrderedDict[Pending, None] = OrderedDict()
        self._again: OrderedDict[Pending, None] = OrderedDict()
        self._isolated: deque[_Group] = deque()
        self._clients: dict[str, ReplicaClient] = {}
        self._safety_net: ReplicaClient | None = None
        self._inflight = 0
        self._requests_inflight = 0
        self._last_return = 0.0
        self._row_s = 0.0
        """Seconds that a replica has needed for a row lately, together with its share of what a batch needs anyway."""
        self.waiting_elsewhere: Callable[[], int] = int
        """Requests for this version that haven't come here yet, because they wait to be let in."""

    # Who can do the work

    def attach(self, client: ReplicaClient) -> None:
        """Send work through this client from now on."""
        self._clients[client.replica_id] = client
        self._outliers.joined(client.replica_id)
        self.pump()

    def detach(self, client: ReplicaClient) -> None:
        if self._clients.get(client.replica_id) is client:
            del self._clients[client.replica_id]
        self.pump()

    def forget(self, replica_id: str) -> None:
        """The replica is gone for good: what was held against it is forgotten."""
        self._outliers.left(replica_id)

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
    def replicas(self) -> list[ReplicaClient]:
        """Those that the lane has a channel to."""
        return list(self._clients.values())

    @property
    def outliers(self) -> Outliers:
        return self._outliers

    def has_other(self, replica_id: str | None) -> bool:
        """Whether a live replica that isn't ejected could take what this one had."""
        outliers = self._outliers
        return any(
            client.live and client.replica_id != replica_id and not outliers.ejected(client.replica_id)
            for client in self._clients.values()
        )

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._again) + sum(len(group.members) for group in self._isolated)

    @property
    def inflight_batches(self) -> int:
        return self._inflight

    def report(self, client: ReplicaClient) -> Report:
        """What a replica is told: its share of the requests that are here, and how long it has been ejected."""
        here = self.waiting + self._requests_inflight + self.waiting_elsewhere()
        return Report(here / max(1, self.live_channels), self._outliers.ejected_for(client.replica_id))

    async def close(self) -> None:
        """Fail what waits and close every client."""
        clients = [*self._clients.values(), *([self._safety_net] if self._safety_net else [])]
        self._clients.clear()
        self._safety_net = None
        self._fail_waiting(f"{self.name} was unloaded")
        for client in clients:
            await client.close()

    # Requests

    def submit(self, request: InferenceRequest, deadline: float, *, avoid: str | None = None) -> Pending:
        """Queue a request; ``answer`` of the result ends with its outputs or a ``RequestError``.

        One that names a replica to ``avoid`` was sent before: it goes first, and to another replica if there is one.
        Raises ``DeadlineExceeded`` when its time is over already, and ``ReplicaUnavailable`` at once when no replica
        can take work or the queue is full.
        """
        now = self._clock.monotonic()
        if deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request could be sent")
        if not self.ready:
            raise ReplicaUnavailable(f"no replica of {self.name} can take work now")
        if len(self._queue) >= self._limits.max_waiting:
            raise ReplicaUnavailable(f"{len(self._queue)} requests wait for {self.name} already")
        answer: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        key = batch_key(request, fixed=self._fixed)
        pending = Pending(self, request, deadline, key, answer, now, avoid)
        if avoid is None:
            self._queue[pending] = None
        else:
            self._again[pending] = None
        self._deadlines.watch(pending)
        self.pump()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for this request any more: it isn't sent, or its replica is told."""
        self._deadlines.forget(pending)
        batch = pending.batch
        if batch is None:
            self._queue.pop(pending, None)
            self._again.pop(pending, None)
            for group in self._isolated:
                if pending in group.members:
                    group.members.remove(pending)
        elif all(member.answer.done() for member in batch.members):
            batch.answer.cancel()
        else:
            batch.client.forget(batch.answer, batch.members.index(pending))

    def expired(self, pending: Pending) -> None:
        """The deadline of this request has passed."""
        if pending.answer.done():
            return
        took = f"the {pending.deadline - pending.since:.3f} s that the request had passed while it was waiting for"
        if pending.batch is not None:
            self._outliers.observed(pending.batch.client.replica_id, good=0, bad=1, seconds=0.0)
            self._end(pending, DeadlineExceeded(f"{took} {self.name}"))
        elif self._last_return > pending.since:
            self._end(pending, QueueTimeout(f"{took} its turn at {self.name}"))
        else:  # nothing came back all that time: it isn't others that kept the replicas busy
            self._end(pending, DeadlineExceeded(f"{took} its turn; no replica of {self.name} answered anything"))
        self.abandon(pending)

    def pump(self) -> None:
        """Send what can be sent now. Called when a request, an answer or a replica comes or goes."""
        if self._again or self._isolated:
            self._pump_again()
        while self._queue:
            client = self._free_client()
            if client is None:
                break
            members = self._take_compatible(self._queue, None)
            if not members:
                return
            self._send(members, client)
        if (self._queue or self._again or self._isolated) and not self.ready:
            self._fail_waiting(f"the last replica of {self.name} is gone")

    def _pump_again(self) -> None:
        """What was sent before goes first, to another replica; only if there is no other, to the same."""
        for _ in range(len(self._isolated)):
            group = self._isolated.popleft()
            members = [pending for pending in group.members if not pending.answer.done()]
            if members and (client := self._free_other(group.avoid)) is not None:
                self._send(members, client)
            elif members:
                self._isolated.append(_Group(members, group.avoid))
        for avoid in dict.fromkeys(pending.avoid for pending in self._again):
            while (client := self._free_other(avoid)) is not None:
                members = self._take_compatible(self._again, avoid)
                if not members:
                    break
                self._send(members, client)

    def _free_other(self, replica_id: str | None) -> ReplicaClient | None:
        return self._free_client(replica_id if self.has_other(replica_id) else None)

    def _free_client(self, avoid: str | None = None) -> ReplicaClient | None:
        """The live replica with the fewest batches outstanding, if any has room; an ejected one for want of others."""
        best: ReplicaClient | None = None
        fewest = self._limits.inflight_batches
        outliers = self._outliers
        for client in self._clients.values():
            if client.live and client.outstanding < fewest and client.replica_id != avoid:
                if outliers.any_ejected and outliers.ejected(client.replica_id) and self.has_other(client.replica_id):
                    continue
                best, fewest = client, client.outstanding
        if best is None and self._safety_net is not None and self._safety_net.live and not self._any_live():
            return self._safety_net if self._safety_net.outstanding < self._limits.inflight_batches else None
        return best

    def _any_live(self) -> bool:
        for client in self._clients.values():  # noqa: SIM110  # `any` with a generator costs three times as much here
            if client.live:
                return True
        return False

    def _take_compatible(self, queue: OrderedDict[Pending, None], avoid: str | None) -> list[Pending]:
        """The first waiting request with this ``avoid``, and those behind it that can go with it."""
        limits = self._limits
        members: list[Pending] = []
        rows = size = rows_max = 0
        for pending in queue:
            if pending.answer.done() or pending.avoid != avoid or (members and pending.key != members[0].key):
                continue
            rows += pending.request.rows
            size += request_bytes(pending.request)
            if not members:
                rows_max = self._rows_in_time(pending)
            elif rows > rows_max or size > limits.max_batch_bytes:
                break
            members.append(pending)
            if not self._signature.batched:
                break
        for pending in members:
            del queue[pending]
        return members

    def _rows_in_time(self, first: Pending) -> int:
        """Rows that fill a batch: no more than the settings allow, and than fit the time that the first request has."""
        most = self._limits.max_batch_rows
        time_s = (first.deadline - self._clock.monotonic()) * BATCH_SHARE
        if not self._row_s or most * self._row_s <= time_s:
            return most
        return max(1, int(time_s / self._row_s))

    def _send(self, members: list[Pending], client: ReplicaClient) -> None:
        now = self._clock.monotonic()
        batch = _Batch(members, client, now)
        stats = self.stats
        for pending in members:
            pending.batch = batch
            pending.sent = now
            stats.queue_s += now - pending.since
        work = join([pending.request for pending in members], [pending.deadline for pending in members])
        self._inflight += 1
        self._requests_inflight += len(members)
        if len(self._clients) > 1 and (last := self._clients.pop(client.replica_id, None)) is not None:
            self._clients[client.replica_id] = last  # of equals, the one that has rested longest comes first
        batch.answer = client.submit(work)
        batch.answer.add_done_callback(lambda _: self._returned(batch))

    # Answers

    def _returned(self, batch: _Batch) -> None:
        self._inflight -= 1
        self._requests_inflight -= len(batch.members)
        self.stats.batches += 1
        self._last_return = now = self._clock.monotonic()
        if not batch.answer.cancelled():
            error = batch.answer.exception()
            good = bad = 0
            rows = sum([pending.request.rows for pending in batch.members])
            self._row_s += PACE_WEIGHT * ((now - batch.sent) / rows - self._row_s)
            if error is None:
                good, bad = self._deliver(batch, batch.answer.result())
            elif isinstance(error, RequestError):
                bad = self._failed(batch, batch.members, error)
            else:
                self._end_all(batch.members, Internal(f"{self.name}: {type(error).__name__}: {error}"))
            self._outliers.observed(batch.client.replica_id, good=good, bad=bad, seconds=now - batch.sent)
        self.pump()

    def _deliver(self, batch: _Batch, answer: Answer) -> tuple[int, int]:
        """End the requests of an answered batch; how many the replica answered well, and how many badly."""
        members = batch.members
        self.stats.compute_s += answer.compute_s
        if answer.dropped:
            if not all(0 <= index < len(members) for index in answer.dropped):
                self._end_all(members, InvalidAnswer(f"{self.name} dropped requests that it wasn't sent"))
                return 0, len(members)
            for index in answer.dropped:
                self._end(members[index], DeadlineExceeded(f"{self.name} dropped the request: its deadline had passed"))
            members = [pending for index, pending in enumerate(members) if index not in answer.dropped]
            if not members:
                return 0, 0
        rows = answered_rows([pending.request.rows for pending in batch.members], answer)
        if (fault := form_fault(self._signature, answer.outputs, rows)) is not None:
            return 0, self._failed(batch, members, InvalidAnswer(f"{self.name} gave an invalid answer: {fault}"))
        faults = unfinite(answer.outputs, rows, batched=self._signature.batched) if self._finite else {}
        self.stats.last_wall = self._clock.wall()
        for index, (pending, outputs) in enumerate(zip(members, split(answer.outputs, rows), strict=True)):
            if faults and index in faults:
                self._end(pending, InvalidAnswer(f"{self.name} gave an invalid answer: {faults[index]}"))
            else:
                self._end(pending, outputs)
        return len(members) - len(faults), len(faults)

    def _failed(self, batch: _Batch, members: list[Pending], error: RequestError) -> int:
        """End a failed batch; if its content may be to blame, find the guilty request first.

        How many bad outcomes that is for the replica: a batch that is taken apart is one, whoever is guilty.
        """
        if isinstance(error, ModelFailed | InvalidAnswer) and len(members) > 1:
            middle = len(members) // 2
            for half in (members[:middle], members[middle:]):
                self._isolated.append(_Group(half, batch.client.replica_id))
                for pending in half:
                    pending.batch = None
            return 1
        self._end_all(members, error)
        return len(members) if failure_of(error).counts else 0

    def _fail_waiting(self, reason: str) -> None:
        waiting = [*self._again, *self._queue, *(pending for group in self._isolated for pending in group.members)]
        self._again.clear()
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
