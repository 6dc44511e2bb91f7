"""Keeps incidents: chosen on the way of a request in microseconds, written off it in a thread.

An outage makes thousands a second. Of one kind only so many are taken, and what waits to be written is bounded in
number and in bytes; the rest is counted. So a failed request pays for a few references, a good one for a comparison.
Not here: what counts as an incident (``serving.incidents.incident``), the queue and the thread (``serving.offload``),
and the file (``serving.incidents.store``).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np

from models.inference import Tensor, Tensors
from serving.clock import Clock
from serving.errors import InvalidRequest
from serving.held import kept as without_others
from serving.incidents.incident import (
    REDACTED,
    TOO_LARGE,
    Contents,
    Facts,
    KeptBody,
    KeptTensor,
    answer_of,
    facts_of,
    failure_in,
    is_callers_own,
    is_shed,
    kept_tensor,
    redacted_tensor,
)
from serving.incidents.redaction import Redaction
from serving.incidents.store import IncidentStore, Row, StoreUnreadable
from serving.offload import Limits, Offload
from serving.protocol.decode import parse_json_length
from serving.request.pipeline import CANCELLED, Ended, Hear, InferCall
from serving.settings import IncidentSettings

log = logging.getLogger("holdfast.incidents")

QUEUE_MAX: Final = 256
QUEUE_MAX_BYTES: Final = 16 << 20
BATCH: Final = 16
GATHER_S: Final = 0.05
"""How long the thread lets incidents gather."""
BURST_S: Final = 4.0
"""What a kind may have at once after it was quiet, in seconds of its rate."""
KINDS_MAX: Final = 256
"""So many kinds have a rate of their own; the others share one."""

OVER_RATE: Final = "rate"
NO_ROOM: Final = "queue"
UNWRITTEN: Final = "unwritten"
SAMPLED: Final = "sampled"
REASONS: Final = (OVER_RATE, NO_ROOM, UNWRITTEN, SAMPLED)
"""Why an incident wasn't kept, as the metrics say it."""

_OTHER_KINDS: Final = ("", "", "")
_OVERHEAD_BYTES: Final = 1024


class Privacy(NamedTuple):
    """What a model's settings say of what its callers ask."""

    sensitive: bool = False
    redact: frozenset[str] = frozenset()


@dataclass(slots=True)
class KeeperStats:
    """``kept`` by model and failure, ``dropped`` by reason; ``number`` and ``bytes`` of the store as last seen."""

    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    number: int = 0
    bytes: int = 0


class _Taken(NamedTuple):
    facts: Facts
    inputs: Tensors
    outputs: Tensors
    body: bytes | memoryview | None
    json_length: int | None
    redact: frozenset[str]
    hashed: bool


class Keeper:
    """A ``serving.request.pipeline.Observer``: ``ended`` is for the event loop's thread."""

    def __init__(
        self,
        store: IncidentStore,
        settings: IncidentSettings,
        *,
        privacy: Callable[[str], Privacy],
        rollout_of: Callable[[str], str],
        redaction: Redaction,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.store = store
        self.stats = KeeperStats()
        self._settings = settings
        self._privacy = privacy
        self._rollout_of = rollout_of
        self._redaction = redaction
        self._monotonic = clock.monotonic
        self._wall = clock.wall
        self._random = random
        self._rates = _Rates(settings.rate_max)
        self._failing = False
        self._offload: Offload[_Taken] = Offload(
            "incidents",
            self._write,
            Limits(BATCH, GATHER_S, QUEUE_MAX, QUEUE_MAX_BYTES),
            not_done=self._unwritten,
            trouble="an incident couldn't be kept",
            log=log,
            clock=clock,
            end=store.close,
        )

    # The event loop's side

    def start(self) -> None:
        self._offload.start()

    def ended(self, ended: Ended) -> None:
        if ended.outcome == CANCELLED or self._offload.closed:
            return
        try:
            self._take(ended)
        except Exception as error:  # noqa: BLE001  # a request is never lost because it couldn't be kept
            self._offload.lost(error)

    def of_good(self, call: InferCall) -> Hear | None:
        return None

    @property
    def waiting(self) -> int:
        return self._offload.waiting

    def close(self, *, within_s: float) -> bool:
        """Write what waits, for as long as ``within_s`` at most; whether the thread has ended. Blocks."""
        return self._offload.close(within_s=within_s)

    def _unwritten(self, number: int) -> None:
        self.stats.dropped[UNWRITTEN] += number

    def _take(self, ended: Ended) -> None:
        failure = failure_in(ended)
        if failure is None or (is_callers_own(ended) and not self._settings.caller_errors):
            return
        model, version = ended.key
        privacy = self._privacy(model)
        if privacy.sensitive:
            return
        dropped = self.stats.dropped
        if is_shed(failure) and self._random() >= self._settings.shed_share:
            dropped[SAMPLED] += 1
        elif not self._rates.spend((model, version, failure), self._monotonic()):
            dropped[OVER_RATE] += 1
        elif self._offload.full() or not self._put(ended, failure, privacy):
            dropped[NO_ROOM] += 1

    def _put(self, ended: Ended, failure: str, privacy: Privacy) -> bool:
        quoting = not privacy.redact and not self._redaction.changes
        rollout = self._rollout_of(ended.key[0])
        facts = facts_of(ended, failure, wall=self._wall(), rollout=rollout, quoting=quoting)
        inputs, in_bytes = without_others(() if ended.request is None else ended.request.inputs)
        outputs, out_bytes = without_others(answer_of(ended))
        call = ended.call
        unread = ended.request is None and ended.key[0] and call.content_encoding is None
        body = call.body if unread else None
        size = in_bytes + out_bytes + (0 if body is None else len(body)) + _OVERHEAD_BYTES
        taken = _Taken(facts, inputs, outputs, body, _json_length(call), privacy.redact, hashed=True)
        if self._offload.put(taken, size):
            return True
        shapes = taken._replace(inputs=_hollow(inputs), outputs=_hollow(outputs), body=None, hashed=False)
        return self._offload.put(shapes)  # better than nothing; they are so small that their number bounds them

    # The thread's side

    def write_waiting(self) -> int:
        """Write a batch of what waits; how much it was."""
        return self._offload.turn()

    def _write(self, batch: Iterator[_Taken]) -> None:
        rows: list[Row] = []
        for item in batch:
            try:
                rows.append(Row(item.facts, self._contents(item)))
            except Exception as error:  # noqa: BLE001  # the next one may do better
                self._offload.lost(error)
        if not rows or self._written(rows):
            self.stats.number, self.stats.bytes = self.store.usage()

    def _written(self, rows: list[Row]) -> bool:
        try:
            self.store.put_many(rows)
        except StoreUnreadable as error:
            self._unwritten(len(rows))
            if not self._failing:
                log.warning("incidents can't be kept: %s", error)
            self._failing = True
            return False
        self._failing = False
        for row in rows:
            self.stats.kept[row.facts.model, row.facts.failure] += 1
        return True

    def _contents(self, item: _Taken) -> Contents:
        model = item.facts.model
        return Contents(
            inputs=self._kept(model, item.inputs, item),
            outputs=self._kept(model, item.outputs, item),
            body=None if item.body is None else self._body(item.body, item),
        )

    def _kept(self, model: str, tensors: Tensors, item: _Taken) -> tuple[KeptTensor, ...]:
        if not item.hashed:
            return tuple([kept_tensor(tensor, whole=False, hashed=False) for tensor in tensors])
        allowed = self._redaction.kept(model, tensors, item.redact)
        whole = _size(tuple(allowed.values())) <= self._settings.max_tensors_bytes
        return tuple(
            [
                redacted_tensor(tensor)
                if (mine := allowed.get(tensor.name)) is None
                else kept_tensor(mine, whole=whole)
                for tensor in tensors
            ]
        )

    def _body(self, body: bytes | memoryview, item: _Taken) -> KeptBody:
        """Bytes that nobody could read can't be redacted either."""
        if item.redact or self._redaction.changes:
            return KeptBody(size_bytes=len(body), left_out=REDACTED)
        raw = bytes(body)
        digest = sha256(raw).hexdigest()
        if len(raw) > self._settings.max_tensors_bytes:
            return KeptBody(size_bytes=len(raw), sha256=digest, left_out=TOO_LARGE)
        return KeptBody(size_bytes=len(raw), json_length=item.json_length, raw=raw, sha256=digest)


def _json_length(call: InferCall) -> int | None:
    """What the header says, if it is a number."""
    with suppress(InvalidRequest):
        return None if call.json_length is None else parse_json_length(call.json_length)
    return None


class _Rates:
    """A token bucket for each kind of incident."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * BURST_S)
        self._buckets: dict[tuple[str, str, str], list[float]] = {}

    def spend(self, kind: tuple[str, str, str], now: float) -> bool:
        bucket = self._buckets.get(kind)
        if bucket is None:
            if len(self._buckets) >= KINDS_MAX:
                kind = _OTHER_KINDS
            bucket = self._buckets.setdefault(kind, [self._most, now])
        tokens = min(self._most, bucket[0] + (now - bucket[1]) * self._per_s)
        bucket[1] = now
        bucket[0] = tokens - 1.0 if tokens >= 1.0 else tokens
        return tokens >= 1.0


def _hollow(tensors: Tensors) -> Tensors:
    """Tensors of the same shapes that take no memory."""
    return tuple(
        [
            Tensor(each.name, each.datatype, np.broadcast_to(np.zeros((), each.array.dtype), each.array.shape))
            for each in tensors
        ]
    )


def _size(tensors: Tensors) -> int:
    """Bytes on the wire; of BYTES tensors those that they hold, which numpy doesn't count."""
    return sum(
        [
            sum(map(len, tensor.array.flat)) + 4 * tensor.array.size
            if tensor.datatype == "BYTES"
            else tensor.array.nbytes
            for tensor in tensors
        ]
    )
