"""Small stand-ins that behave like the real thing: time, and the replicas of a version.

Tests get their loop from ``run``; the hook in ``conftest.py`` calls it for every ``async def`` test.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import selectors
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from fallbacks.chain import Chain
from models.errors import InferenceFailed
from models.golden import GOLDEN_FILE, Example, write_examples
from models.inference import Array, InferenceRequest, Tensor
from models.manifest import FileDigest, Golden, Manifest
from models.quality import InputQuality
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.channel.address import Address, UnixAddress
from serving.channel.faults import Command, Fault, Report
from serving.channel.frames import FrameReader, Kind, read_frame
from serving.channel.messages import PROTOCOL_VERSION, Hello, answer_frame, read_work, small_frame
from serving.channel.watchers import ReplicaProcess
from serving.channel.work import Answer, Work
from serving.clock import Clock
from serving.errors import ReplicaLost, RequestError
from serving.model_settings import BreakerSettings
from serving.protocol.decode import RequestDecoder
from serving.request.admission import Admission, AdmissionLimits
from serving.request.attempts import Attempts, RetryLimits
from serving.request.breaker import Breaker, breaker_limits
from serving.request.budget import RetryBudget
from serving.request.deadline import Deadlines
from serving.request.lane import Lane
from serving.request.pipeline import Plan, ServedVersion

T = TypeVar("T")

WALL = 1_700_000_000.0


class FakeClock:
    """Time that passes when a test says so, or, on a loop of its own, when nothing is left to do but wait."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL + self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class _Skipping(selectors.SelectSelector):
    """Where others wait, this lets time jump. With nothing to wait for, it says that the test hangs."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError("the test waits for something that can't happen any more")
        self._clock.advance(timeout + 1e-6)  # as real timers do: a little late, never early
        return []


class SkippingLoop(asyncio.SelectorEventLoop):
    """Runs on a ``FakeClock``. For tests without threads and sockets, whose doings it doesn't see."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        super().__init__(_Skipping(clock))

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(  # type: ignore[override]  # the result is there at once
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # whoever awaits the future gets it
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T], clock: FakeClock | None = None) -> T:
    """The result of ``main``. Fails if it leaves tasks behind, or an exception that nobody saw."""
    unseen: list[str] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: unseen.append(f"{context['message']}: {context.get('exception')!r}")
        )
        async with asyncio.timeout(None if clock else 30):
            result = await main
        for _ in range(5):  # what was told to end may end
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=(lambda: SkippingLoop(clock)) if clock else None) as runner:
        result = runner.run(guarded())
    assert not unseen, unseen
    return result


async def settled(turns: int = 10) -> None:
    """Let everything happen that can happen without the passing of time."""
    for _ in range(turns):
        await asyncio.sleep(0)


# A model that doubles: y = 2 x.

DOUBLE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), batched=True)


def request_of(*values: float, signature: Signature = DOUBLE, model: str = "m", width: int = 2) -> InferenceRequest:
    """A request with a row for each value, which fills it."""
    array = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    return InferenceRequest(model, (Tensor("x", "FP32", array),), rows=len(values))


def work_of(*requests: Sequence[float], deadline: float, width: int = 2) -> Work:
    """The batch of these requests; each is the values of its rows."""
    values = [value for request in requests for value in request]
    array = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    return Work((Tensor("x", "FP32", array),), tuple(map(len, requests)), (deadline,) * len(requests))


def doubled(work: Work) -> Answer:
    return Answer((Tensor("y", "FP32", work.inputs[0].array * np.float32(2)),))


def values_of(tensors: Sequence[Tensor]) -> list[float]:
    """The first column of the first tensor."""
    column: list[float] = tensors[0].array[:, 0].tolist()
    return column


@dataclass(eq=False)
class Call:
    """A batch that a ``FakeReplica`` was sent."""

    work: Work
    answer: asyncio.Future[Answer]
    replica: FakeReplica
    forgotten: list[int] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return values_of(self.work.inputs)

    def reply(self, outcome: Answer | RequestError | None = None) -> None:
        """End the call, if nobody has cancelled it; by default with the doubled input."""
        self.replica.calls.remove(self)
        if not self.answer.done():
            if isinstance(outcome, RequestError):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(doubled(self.work) if outcome is None else outcome)
        self.replica.on_change()


class FakeReplica:
    """A ``ReplicaClient`` that answers when the test says so; ``sent`` is all that it ever got."""

    def __init__(self, replica_id: str = "r1", *, on_change: Callable[[], None] = lambda: None) -> None:
        self.replica_id = replica_id
        self.live = True
        self.calls: list[Call] = []
        self.sent: list[Call] = []
        self.on_change = on_change
        self.closed = False

    @property
    def outstanding(self) -> int:
        return len(self.calls)

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        assert self.live, "work for a replica that isn't live"
        call = Call(work, asyncio.get_running_loop().create_future(), self)
        self.calls.append(call)
        self.sent.append(call)
        return call.answer

    def forget(self, answer: asyncio.Future[Answer], item: int) -> None:
        next(call for call in self.sent if call.answer is answer).forgotten.append(item)

    def lose(self) -> None:
        """As if the process had been killed."""
        self.live = False
        calls, self.calls = self.calls, []
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(ReplicaLost(f"{self.replica_id} is lost"))
        self.on_change()

    async def close(self) -> None:
        self.closed = True
        self.lose()


class AnsweringReplica(FakeReplica):
    """Answers everything on the next turn of the loop, as ``model`` says."""

    def __init__(
        self,
        model: Callable[[Work], Answer | RequestError] = doubled,
        replica_id: str = "r1",
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(replica_id, on_change=on_change)
        self.model = model

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        answer = super().submit(work)
        call = self.calls[-1]

        def answer_it() -> None:
            if call in self.calls:
                call.reply(self.model(work))

        asyncio.get_running_loop().call_soon(answer_it)
        return answer


class HeldModel:
    """Doubles, on the model's thread, when it may. Negative numbers make it fail."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []
        self.output: Callable[[Array], Array] = lambda x: x * np.float32(2)
        self.started = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._may_run = threading.Event()
        self._may_run.set()

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        self._loop.call_soon_threadsafe(self.started.set)
        assert self._may_run.wait(20), "nobody let the model go"
        x = inputs["x"]
        self.seen.append(x[:, 0].tolist())
        if (x < 0).any():
            raise InferenceFailed("a negative number")
        return [self.output(x)]

    def hold(self) -> None:
        self._may_run.clear()
        self.started.clear()

    def let_go(self) -> None:
        self._may_run.set()


class ScriptedReplica:
    """A peer that greets rightly and then answers a batch with whatever bytes it was given."""

    def __init__(self, *, hello: bytes | None = None, answer: bytes = b"", silent: bool = False) -> None:
        self.hello = small_frame(Kind.HELLO, Hello(PROTOCOL_VERSION)) if hello is None else hello
        self.answer = answer
        self.silent = silent

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader(max_frame_bytes=1 << 20)
        while data := await reader.read(1 << 16):
            for frame in frames.feed(data):
                if frame.kind == Kind.HELLO and not self.silent:
                    writer.write(self.hello)
                elif frame.kind == Kind.INFER:
                    writer.write(self.answer)
        writer.close()


@contextlib.asynccontextmanager
async def scripted(replica: ScriptedReplica, folder: Path) -> AsyncIterator[Address]:
    server = await asyncio.start_unix_server(replica.serve, folder / "s.sock")
    yield UnixAddress(str(folder / "s.sock"))
    server.close()
    await settled()


class FakeLink:
    """What Serve knows of a version: nobody dials here, so all work comes through ``call``."""

    def __init__(self, clock: FakeClock, *, replicas: int = 1) -> None:
        self.replicas = replicas
        self.closed = False
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_replicas: Callable[[Mapping[str, Address]], None] | None = None
        self.faults: dict[str, Fault | None] = {}
        self.mute: set[str] = set()
        self._clock = clock

    async def call(self, frame: bytes) -> bytes:
        self.calls += 1
        await self.gate.wait()
        number, work = read_work(read_frame(frame, max_frame_bytes=1 << 20), now=self._clock.now)
        return b"".join(answer_frame(number, doubled(work)))

    def watch(self, on_replicas: Callable[[Mapping[str, Address]], None]) -> None:
        self.on_replicas = on_replicas

    def available(self) -> bool:
        return self.replicas > 0

    def processes(self) -> Mapping[str, ReplicaProcess]:
        return {
            f"r{number}": ReplicaProcess(4000 + number, "a-node", "10.0.0.2") for number in range(1, self.replicas + 1)
        }

    async def tell_all(self, method: str, raw: bytes, *, within_s: float) -> list[bytes]:
        """Every replica but the ``mute`` ones obeys; ``faults`` is what is in force."""
        assert method == "set_faults"
        command = msgspec.json.decode(raw, type=Command)
        answers = []
        for name in self.processes():
            if name in self.mute:
                continue
            if command.means(name):
                self.faults[name] = command.fault
            report = Report(replica=name, meant=command.means(name), fault=self.faults.get(name))
            answers.append(msgspec.json.encode(report))
        return answers

    def close(self) -> None:
        self.closed = True


def publish_version(
    registry: Registry,
    model: str,
    version: str,
    artifact: bytes = b"weights",
    *,
    deterministic: bool = False,
    signature: Signature = DOUBLE,
    quality: tuple[InputQuality, ...] = (),
) -> Manifest:
    """A version of the doubling model, or of one that says it is another; its artifact needn't run."""
    ones = np.ones((1, 2), np.float32)
    files = {GOLDEN_FILE: write_examples([Example((ones,), (2 * ones,))], DOUBLE), "model.onnx": artifact}
    return registry.publish(
        Manifest(
            model=model,
            version=version,
            backend="onnxruntime",
            files=tuple(
                FileDigest(name, hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in sorted(files.items())
            ),
            signature=signature,
            golden=Golden(GOLDEN_FILE),
            deterministic=deterministic,
            quality=quality,
        ),
        files,
    )


def attempts_of(lane: Lane, clock: Clock) -> Attempts:
    """A single attempt at a lane's version, behind a breaker that stays closed."""
    never = breaker_limits(BreakerSettings(min_calls=1_000_000), timeout_s=10)
    return Attempts(
        lane,
        Breaker(lane.name, never, clock=clock, random=half),
        limits=RetryLimits(attempts=1),
        budget=RetryBudget(0.2, 100),
        clock=clock,
        random=half,
    )


def half() -> float:
    """Chance, for those who want none."""
    return 0.5


def plan_of(lane: Lane, clock: Clock, *, timeout_s: float = 7.0, chain: Chain | None = None) -> Plan:
    """How calls for ``m`` are answered: by ``m@v1`` through this lane."""
    served = ServedVersion("m", "v1", "m@v1", "sha256:0", lane, attempts_of(lane, clock))
    admission = Admission("m", AdmissionLimits(limit_min=1000), clock=clock, deadlines=Deadlines(clock))
    return Plan(("m", "v1"), served, RequestDecoder("m", DOUBLE), timeout_s, admission, chain)
