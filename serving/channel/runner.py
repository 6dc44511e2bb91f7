"""Runs the model of a replica in its own thread, so that the replica's loop goes on answering.

Not here: where work comes from (``serving.channel.server``, the Serve handle) and what the model is (``models``).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.errors import InferenceFailed
from models.inference import DATATYPES, Array, Tensor
from models.signature import Signature
from serving.channel.pace import Pace, told_by_rows
from serving.channel.work import Answer, Work, tensors_bytes, without
from serving.clock import Clock
from serving.errors import Internal, InvalidAnswer, ModelFailed, ReplicaUnavailable, RequestError

log = logging.getLogger("holdfast.channel")

Run = Callable[[Mapping[str, Array]], Sequence[Array]]
Outcome = Answer | RequestError
Done = Callable[[Outcome], None]


@dataclass(slots=True, eq=False)
class Job:
    """Work that waits for the model, and who wants to know."""

    work: Work
    done: Done
    unwanted: set[int] = field(default_factory=set)
    """Requests that nobody waits for any more; they are dropped if the model hasn't seen them yet."""


class Observer(Protocol):
    """Hears of what happens to work, on the thread that runs the model."""

    def dropped(self, requests: int) -> None: ...

    def ran(self, *, rows: int, seconds: float) -> None: ...

    def failed(self) -> None: ...


class ModelRunner:
    """One thread, one model, one job after the other; a job that is known to be quick runs on the loop at once.

    ``done`` is called on the loop, once for every job. What is past its deadline or unwanted when its turn comes is
    dropped before the model runs.
    """

    def __init__(
        self, run: Run, signature: Signature, *, clock: Clock, max_waiting: int, observer: Observer | None = None
    ) -> None:
        self._run = run
        self._signature = signature
        self._clock = clock
        self._max_waiting = max_waiting
        self._observer = observer
        self._jobs: queue.SimpleQueue[Job | _Call | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._unfinished = 0
        self._calls = 0
        self._pace = Pace()
        self._told_by_rows = told_by_rows(signature)
        self._idle = asyncio.Event()
        self._idle.set()
        self._running_since: float | None = None
        self._running_on_loop = False
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._work_off, name="model", daemon=True)
        self._thread.start()

    def wrap(self, around: Callable[[Run], Run], pace: Pace) -> None:
        """Run the model inside ``around``, and let ``pace`` say what is quick; before there is work."""
        self._run, self._pace = around(self._run), pace

    @property
    def unfinished(self) -> int:
        """Jobs that wait or run."""
        return self._unfinished

    @property
    def running_s(self) -> float:
        """How long the model has been computing its current answer, in seconds; 0 when it rests."""
        since = self._running_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def under_way(self) -> tuple[float, int] | None:
        """When the model's current run began, in monotonic seconds, and the thread that it is on; None when it rests.

        Asked by another thread.
        """
        since = self._running_since
        if since is None:
            return None
        return since, self._loop_thread if self._running_on_loop else self._thread.ident or 0

    def submit(self, job: Job) -> None:
        """Queue ``job``; a full or closed runner answers it at once with ``ReplicaUnavailable``."""
        if self._closed or self._unfinished >= self._max_waiting:
            reason = "is shutting down" if self._closed else f"has {self._unfinished} batches waiting"
            job.done(ReplicaUnavailable(f"the replica {reason}"))
            return
        self._unfinished += 1
        if self._unfinished == 1 and not self._calls and self._quick(job.work):
            self._running_on_loop = True
            self._running_since = self._clock.monotonic()
            outcome = self._safely(job)
            self._running_since = None
            self._running_on_loop = False
            self._finish(job, outcome)
            return
        self._idle.clear()
        self._jobs.put(job)

    def _quick(self, work: Work) -> bool:
        return self._pace.quick(sum(work.rows), size_bytes=self._size_bytes(work))

    def _size_bytes(self, work: Work) -> int:
        """0 where the rows say it."""
        return 0 if self._told_by_rows else tensors_bytes(work.inputs)

    async def run(self, work: Work) -> Answer:
        """As ``submit``, awaited; raises the ``RequestError`` that the work ended with."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        job = Job(work, lambda outcome: settle(future, outcome))
        self.submit(job)
        try:
            return await future
        finally:
            if future.cancelled():
                job.unwanted.update(range(len(work.rows)))

    async def call(self, function: Callable[[], None]) -> None:
        """Run ``function`` on the model's thread when its turn comes; raises what it raises.

        A closed runner raises ``ReplicaUnavailable``.
        """
        if self._closed:
            raise ReplicaUnavailable("the replica is shutting down")
        call = _Call(function, self._loop.create_future())
        self._calls += 1
        self._jobs.put(call)
        try:
            await asyncio.shield(call.done)  # who waits may go away; the thread is busy until the call ends
        finally:
            call.done.add_done_callback(self._called)

    def _called(self, _: asyncio.Future[None]) -> None:
        self._calls -= 1

    async def drained(self) -> None:
        """Returns when no job waits or runs."""
        await self._idle.wait()

    def close(self) -> None:
        """Take no new jobs and end the thread after those that wait. Doesn't block."""
        self._closed = True
        self._jobs.put(None)

    def _work_off(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._running_since = self._clock.monotonic()
            if isinstance(job, Job):
                told = self._tell(self._finish, job, self._safely(job))
            else:
                told = self._tell(job.end, job.attempt())
            self._running_since = None
            if not told:
                return

    def _tell(self, function: Callable[..., None], *arguments: Any) -> bool:
        """Call ``function`` on the loop; False if the loop is closed and nobody is left to be told."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return True

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            self._idle.set()
        job.done(outcome)

    def _safely(self, job: Job) -> Outcome:
        """As ``_outcome``; a defect of ours costs this job, not the thread that all others wait for."""
        try:
            return self._outcome(job)
        except Exception as error:
            log.exception("the replica couldn't work off a batch")
            return Internal(f"{type(error).__name__}: {error}")

    def _outcome(self, job: Job) -> Outcome:
        work = job.work
        started = self._clock.monotonic()
        dropped = _too_late(job, started)
        if dropped and self._observer is not None:
            self._observer.dropped(len(dropped))
        if len(dropped) == len(work.rows):
            return Answer((), dropped)
        if dropped:
            work = without(work, dropped)
        try:
            arrays = self._run({tensor.name: tensor.array for tensor in work.inputs})
        except Exception as error:  # noqa: BLE001  # whatever a model does, its replica goes on
            self._pace.failed(sum(work.rows), size_bytes=self._size_bytes(work))
            if self._observer is not None:
                self._observer.failed()
            said = str(error) if isinstance(error, InferenceFailed) else f"{type(error).__name__}: {error}"
            return ModelFailed(said)
        seconds = self._clock.monotonic() - started
        self._pace.ran(sum(work.rows), seconds, size_bytes=self._size_bytes(work))
        if self._observer is not None:
            self._observer.ran(rows=sum(work.rows), seconds=seconds)
        specs = self._signature.outputs
        if len(arrays) != len(specs):
            return InvalidAnswer(f"the model gave {len(arrays)} outputs where the signature has {len(specs)}")
        for spec, array in zip(specs, arrays, strict=True):
            if array.dtype != DATATYPES[spec.datatype].dtype:  # as raw bytes it would be taken for what it isn't
                return InvalidAnswer(f"the model gave output '{spec.name}' as {array.dtype}, not {spec.datatype}")
        outputs = tuple([Tensor(spec.name, spec.datatype, array) for spec, array in zip(specs, arrays, strict=True)])
        return Answer(outputs, dropped, seconds)


@dataclass(slots=True, eq=False)
class _Call:
    """Something else that has to run where the model runs."""

    function: Callable[[], None]
    done: asyncio.Future[None]

    def attempt(self) -> Exception | None:
        try:
            self.function()
        except Exception as error:  # noqa: BLE001  # handed to whoever asked
            return error
        return None

    def end(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def _too_late(job: Job, now: float) -> tuple[int, ...]:
    """The requests of the job that are of no more use."""
    deadlines = job.work.deadlines
    if not job.unwanted and min(deadlines) > now:
        return ()
    return tuple([index for index, deadline in enumerate(deadlines) if deadline <= now or index in job.unwanted])


def settle(future: asyncio.Future[Answer], outcome: Outcome) -> None:
    """End ``future`` as the work ended, unless somebody ended it before."""
    if future.done():
        return
    if isinstance(outcome, Answer):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
