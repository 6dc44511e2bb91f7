"""The way of one model version's requests: a queue, batches without a timer, and the replicas they go to.

While every replica has its share of batches in flight, requests wait; when one comes back, whatever is compatible
in the queue leaves together. A lone request leaves at once. Not here: which version a request goes to
(``serving.routing``), connections (``serving.channel``), and what happens after a failed attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
from serving.request.batch_pace import BatchPace
from serving.request.check import form_fault, unfinite
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.failures import failure_of
from serving.request.outlier import EjectionLimits
from serving.request.waiting import Waiting

log = logging.getLogger("holdfast.lane")


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


class Share(NamedTuple):
    """How much of its time a request may spend with one replica, if another one could have it after that.

    ``limit_s`` in seconds; None: half of what is left when it is sent.
    """

    limit_s: float | None = None


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
    share: Share | None = None
    batch: _Batch | None = None
    sent: float = 0.0
    overdue: bool = False
    """Whether it ended because it took longer than such requests usually do, not because its caller was in a hurry."""

    def expire(self) -> None:
        self.lane.expired(self)

    @property
    def ended(self) -> bool:
        return self.answer.done()

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
    returned: float = 0.0
    compute_s: float | None = None
    """What the replica says that the model took, if it said anything."""


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
        self._waiting: Waiting[Pending] = Waiting()
        self._pace = BatchPace()
        self._clients: dict[str, ReplicaClient] = {}
        self._safety_net: ReplicaClient | None = None
        self._inflight = 0
        self._requests_inflight = 0
        self._last_return = 0.0
        self._busy_since: dict[str, float] = {}
        """When each replica that has work was sent its oldest batch, or answered the one before."""
        self._looking_again: asyncio.TimerHandle | None = None
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
            self._busy_since.pop(client.replica_id, None)
        self.pump()

    def forget(self, replica_id: str) -> None:
        """The replica is gone for good: what was held against it is forgotten."""
        self._outliers.left(replica_id)

    def set_safety_net(self, client: ReplicaClient) -> None:
        """The client that is used while no other one is live."""
        self._safety_net = client

    def lost_ping(self, replica_id: str) -> None:
        """The replica has left a ping unanswered."""
        self._outliers.lost_ping(replica_id)

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
        """Whether another replica could take what this one had: one that lives, isn't ejected and doesn't hang."""
        for client in self._clients.values():
            name = client.replica_id
            if client.live and name != replica_id and not self._outliers.ejected(name) and not self._hangs(client):
                return True
        return False

    def has_room_beside(self, replica_id: str | None) -> bool:
        """Whether another replica would take something at once."""
        return self.has_other(replica_id) and self._free_client(replica_id) is not None

    def _hangs(self, client: ReplicaClient) -> bool:
        """Whether the replica has had its work for unusually long."""
        since = self._busy_since.get(client.replica_id)
        return since is not None and client.outstanding > 0 and self._pace.overdue(self._clock.monotonic() - since)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

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
        if self._looking_again is not None:
            self._looking_again.cancel()
        self._fail_waiting(f"{self.name} was unloaded")
        for client in clients:
            await client.close()

    # Requests

    def submit(
        self, request: InferenceRequest, deadline: float, *, avoid: str | None = None, share: Share | None = None
    ) -> Pending:
        """Queue a request; ``answer`` of the result ends with its outputs or a ``RequestError``.

        One that names a replica to ``avoid`` was sent before: it goes first, and to another replica if there is one.
        ``share`` bounds the time with one replica, from when it is sent. Raises ``DeadlineExceeded`` when its time is
        over already, and ``ReplicaUnavailable`` at once when no replica can take work or the queue is full.
        """
        now = self._clock.monotonic()
        if deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request could be sent")
        if not self.ready:
            raise ReplicaUnavailable(f"no replica of {self.name} can take work now")
        if len(self._waiting.fresh) >= self._limits.max_waiting:
            raise ReplicaUnavailable(f"{len(self._waiting.fresh)} requests wait for {self.name} already")
        answer: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        key = batch_key(request, fixed=self._fixed)
        pending = Pending(self, request, deadline, key, answer, now, avoid, share)
        self._waiting.add(pending)
        self._deadlines.watch(pending)
        self.pump()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for this request any more: it isn't sent, or its replica is told."""
        self._deadlines.forget(pending)
        batch = pending.batch
        if batch is None:
            self._waiting.discard(pending)
        elif all(member.answer.done() for member in batch.members):
            batch.answer.cancel()
        else:
            batch.client.forget(batch.answer, batch.members.index(pending))

    def expired(self, pending: Pending) -> None:
        """The time of this request with its replica, or altogether, has passed."""
        if pending.answer.done():
            return
        now = self._clock.monotonic()
        took = f"the {pending.deadline - pending.since:.3f} s that the request had passed while it was waiting for"
        if pending.batch is not None:
            age_s = now - pending.sent
            pending.overdue = self._pace.overdue(age_s)
            if pending.overdue:
                self._outliers.observed(pending.batch.client.replica_id, good=0, bad=1, seconds=age_s, timed=False)
            self._end(pending, DeadlineExceeded(f"{took} {self.name}"))
        elif self._last_return > pending.since:
            self._end(pending, QueueTimeout(f"{took} its turn at {self.name}"))
        else:  # nothing came back all that time: it isn't others that kept the replicas busy
            pending.overdue = self._pace.overdue(now - pending.since)
            self._end(pending, DeadlineExceeded(f"{took} its turn; no replica of {self.name} answered anything"))
        self.abandon(pending)

    def pump(self) -> None:
        """Send what can be sent now. Called when a request, an answer or a replica comes or goes."""
        waiting = self._waiting
        if waiting.again or waiting.groups:
            self._pump_again()
        while waiting.fresh:
            client = self._free_client()
            if client is None:
                break
            members = self._take_compatible(waiting.fresh, None)
            if not members:
                return
            self._send(members, client)
        if waiting and not self.ready:
            self._fail_waiting(f"the last replica of {self.name} is gone")

    def _pump_again(self) -> None:
        """What was sent before goes first, to another replica; only if there is no other, to the same."""
        waiting = self._waiting
        for _ in range(len(waiting.groups)):
            group = waiting.next_group()
            if group is None:
                break
            client = self._free_other(group.avoid)
            if client is None:
                waiting.groups.append(group)
            else:
                self._send(group.members, client)
        for avoid in waiting.avoided():
            while (client := self._free_other(avoid)) is not None:
                members = self._take_compatible(waiting.again, avoid)
                if not members:
                    break
                self._send(members, client)
        if (waiting.again or waiting.groups) and self._looking_again is None:
            loop = asyncio.get_running_loop()
            self._looking_again = loop.call_later(self._pace.patience_s, self._look_again)

    def _look_again(self) -> None:
        """Nothing may have come or gone, but by now it may be known that the other replicas hang."""
        self._looking_again = None
        self.pump()

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
                rows_max = self._pace.rows_for(pending.deadline - pending.since, most=limits.max_batch_rows)
            elif rows > rows_max or size > limits.max_batch_bytes:
                break
            members.append(pending)
            if not self._signature.batched:
                break
        for pending in members:
            del queue[pending]
        return members

    def _send(self, members: list[Pending], client: ReplicaClient) -> None:
        now = self._clock.monotonic()
        batch = _Batch(members, client, now)
        if not client.outstanding:
            self._busy_since[client.replica_id] = now
        stats = self.stats
        for pending in members:
            pending.batch = batch
            if not pending.sent:
                stats.queue_s += now - pending.since
            pending.sent = now
        if len(self._clients) > 1:
            self._turn_to(client, members, now)
        try:
            work = join([pending.request for pending in members], [pending.deadline for pending in members])
            batch.answer = client.submit(work)
        except Exception as error:
            log.exception("a batch couldn't be sent to %s", client.replica_id)
            self._end_all(members, Internal(f"{self.name}: {type(error).__name__}: {error}"))
            return
        self._inflight += 1
        self._requests_inflight += len(members)
        batch.answer.add_done_callback(lambda _: self._returned(batch))

    def _turn_to(self, client: ReplicaClient, members: list[Pending], now: float) -> None:
        """Where there are several replicas: take turns, and don't let one have a request for all the time it has."""
        last = self._clients.pop(client.replica_id, None)
        if last is not None:
            self._clients[client.replica_id] = last  # of equals, the one that has rested longest comes first
        another = None
        for pending in members:
            share = pending.share
            if share is None:
                continue
            if another is None:
                another = self.has_other(client.replica_id)
            if not another:
                return
            left_s = pending.deadline - now
            self._deadlines.forget(pending)
            pending.deadline = now + (0.5 * left_s if share.limit_s is None else min(left_s, share.limit_s))
            self._deadlines.watch(pending)

    # Answers

    def _returned(self, batch: _Batch) -> None:
        self._inflight -= 1
        self._requests_inflight -= len(batch.members)
        self.stats.batches += 1
        self._last_return = batch.returned = now = self._clock.monotonic()
        name = batch.client.replica_id
        if batch.client.outstanding:
            self._busy_since[name] = now
        else:
            self._busy_since.pop(name, None)
        if not batch.answer.cancelled():
            error = batch.answer.exception()
            good = bad = 0
            self._pace.returned(now - batch.sent, good=error is None)
            if error is None:
                good, bad = self._deliver(batch, batch.answer.result())
            elif isinstance(error, RequestError):
                bad = self._failed(batch, batch.members, error)
            else:
                self._end_all(batch.members, Internal(f"{self.name}: {type(error).__name__}: {error}"))
            self._outliers.observed(name, good=good, bad=bad, seconds=now - batch.sent)
        self.pump()

    def _deliver(self, batch: _Batch, answer: Answer) -> tuple[int, int]:
        """End the requests of an answered batch; how many the replica answered well, and how many badly."""
        members = batch.members
        self.stats.compute_s += answer.compute_s
        batch.compute_s = answer.compute_s
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
            error = InvalidAnswer(f"{self.name} gave an invalid answer: {fault}", outputs=answer.outputs)
            return 0, self._failed(batch, members, error)
        faults = unfinite(answer.outputs, rows, batched=self._signature.batched) if self._finite else {}
        self.stats.last_wall = self._clock.wall()
        self._pace.went_well()
        self._pace.computed(sum(rows), answer.compute_s)
        for index, (pending, outputs) in enumerate(zip(members, split(answer.outputs, rows), strict=True)):
            if faults and index in faults:
                text = f"{self.name} gave an invalid answer: {faults[index]}"
                self._end(pending, InvalidAnswer(text, outputs=outputs))
            else:
                self._end(pending, outputs)
        return len(members) - len(faults), len(faults)

    def _failed(self, batch: _Batch, members: list[Pending], error: RequestError) -> int:
        """End a failed batch; if its content may be to blame, find the guilty request first.

        How many bad outcomes that is for the replica: a batch that is taken apart is one, whoever is guilty, and of
        those that weren't waited for any more nobody knows.
        """
        if isinstance(error, ModelFailed | InvalidAnswer) and len(members) > 1:
            self._pace.fell_apart(sum([pending.request.rows for pending in members]))
            self._waiting.halve(members, batch.client.replica_id)
            for pending in members:
                pending.batch = None
            return 1
        bad = sum([not pending.answer.done() for pending in members])
        self._end_all(members, error)
        return bad if failure_of(error).counts else 0

    def _fail_waiting(self, reason: str) -> None:
        self._end_all(self._waiting.take_all(), ReplicaUnavailable(reason))

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
