"""Makes a replica misbehave as it was told: the shell around ``serving.channel.faults``.

It is only there if the settings allow faults: without it nothing wraps the model and nothing looks at frames. The
golden self-test goes past failures, delays and wrong answers, else Ray Serve would replace the replica before anyone
sees how the gateways deal with it; a hang stops it like everything else.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from models.errors import InferenceFailed
from models.inference import Array
from models.signature import Signature
from serving.channel.faults import Command, Fault, Report, draw, spoilt
from serving.channel.frames import Frame, Kind, ProtocolError
from serving.channel.pace import Pace
from serving.channel.runner import ModelRunner, Run
from serving.channel.server import Connection, TensorServer
from serving.clock import Clock
from serving.errors import RequestError

log = logging.getLogger("holdfast.faults")

ANSWER_FIRST_S: Final = 0.1
"""What stops the loop waits so long, for the command's answer to leave."""

PIECE_S: Final = 0.02
GARBAGE: Final = b"this is no frame of the tensor channel"

_read_command: Final = msgspec.json.Decoder(Command).decode


def _end_process() -> None:
    os._exit(1)


class _Plan:
    """A fault in force, until a moment of the monotonic clock; with chances of its own for runs and for frames."""

    def __init__(self, fault: Fault, *, until: float, number: int) -> None:
        self.fault = fault
        self.until = until
        self.runs = random.Random(f"{fault.seed}/{number}/runs")
        self.frames = random.Random(f"{fault.seed}/{number}/frames")


class Injector:
    """The faults of one replica. ``number`` tells replicas of a version apart and is the same in every trial."""

    def __init__(
        self,
        replica_id: str,
        signature: Signature,
        *,
        clock: Clock,
        number: Callable[[], int],
        sleep: Callable[[float], None] = time.sleep,
        leave: Callable[[], None] = _end_process,
    ) -> None:
        self._replica_id = replica_id
        self._signature = signature
        self._clock = clock
        self._number = number
        self._sleep = sleep
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._plan: _Plan | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._hanging: set[asyncio.Task[None]] = set()
        self._stalled: set[FaultyConnection] = set()
        self._leaked: list[bytes] = []
        self._runner: ModelRunner

    def install(self, runner: ModelRunner, server: TensorServer) -> None:
        """Get between the runner and its model, and between the server and its gateways, before there is work."""
        self._runner = runner
        runner.wrap(self._around, _FaultyPace(self))
        server.connection = functools.partial(FaultyConnection, injector=self)

    @property
    def fault(self) -> Fault | None:
        """The fault in force."""
        return None if self._plan is None else self._plan.fault

    def obey(self, raw: bytes) -> bytes:
        """Carry out a ``Command`` in JSON, if it means this replica; what is in force then, as a ``Report``."""
        command = _read_command(raw)
        meant = command.means(self._replica_id)
        if meant:
            self._change(command.fault)
        left_s = None
        if self._plan is not None and self._plan.until < math.inf:
            left_s = round(max(0.0, self._plan.until - self._clock.monotonic()), 3)
        return msgspec.json.encode(Report(replica=self._replica_id, meant=meant, fault=self.fault, left_s=left_s))

    def close(self) -> None:
        """End what is in force."""
        self._change(None)

    def _change(self, fault: Fault | None) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._plan = None
        stalled, self._stalled = self._stalled, set()
        for connection in stalled:
            connection.go_on()
        if fault is None:
            return
        log.warning("a fault on demand: %s", msgspec.json.encode(fault).decode())
        lasts_s = math.inf if fault.lasts_s is None else fault.lasts_s
        plan = self._plan = _Plan(fault, until=self._clock.monotonic() + lasts_s, number=self._number())
        if lasts_s < math.inf:
            self._timers.append(self._loop.call_later(lasts_s, self._change, None))
        if fault.exit:
            self._timers.append(self._loop.call_later(ANSWER_FIRST_S, self._leave))
        if fault.hang == "loop":
            self._timers.append(self._loop.call_later(ANSWER_FIRST_S, self._wait, math.inf, plan))
        elif fault.hang == "model":
            task = self._loop.create_task(self._hang_model(plan))
            self._hanging.add(task)
            task.add_done_callback(self._hanging.discard)

    async def _hang_model(self, plan: _Plan) -> None:
        try:
            await self._runner.call(functools.partial(self._wait, math.inf, plan))
        except RequestError as error:
            log.warning("the model can't hang: %s", error.message)

    def _wait(self, seconds: float, plan: _Plan) -> None:
        """Block this thread, but not beyond the end of the fault."""
        until = min(self._clock.monotonic() + seconds, plan.until)
        while self._plan is plan and (left_s := until - self._clock.monotonic()) > 0:
            self._sleep(min(PIECE_S, left_s))

    @property
    def leaked_bytes(self) -> int:
        return sum(map(len, self._leaked))

    # Between the runner and the model

    def _around(self, run: Run) -> Run:
        def faulty(inputs: Mapping[str, Array]) -> Sequence[Array]:
            plan = self._plan
            return run(inputs) if plan is None else self._run(run, inputs, plan)

        return faulty

    def _run(self, run: Run, inputs: Mapping[str, Array], plan: _Plan) -> Sequence[Array]:
        fate = draw(plan.fault, plan.runs)
        if plan.fault.leak_kib_per_run:
            self._leaked.append(b"\1" * (plan.fault.leak_kib_per_run << 10))  # written to: zeros would cost nothing
        rows = len(next(iter(inputs.values()))) if self._signature.batched else 1
        began = self._clock.monotonic()
        arrays = () if fate.fails else run(inputs)
        if plan.fault.slow:
            self._wait(plan.fault.added_s(rows=rows, ran_s=self._clock.monotonic() - began), plan)
        if fate.fails:
            raise InferenceFailed("a fault on demand")
        return spoilt(arrays, fate, self._signature)

    # Between the server and the gateways

    def befalls(self, frame: Frame) -> str | None:
        """What happens to a frame that arrives: "cut", "garble", "stall" or nothing."""
        plan = self._plan
        if plan is None or plan.fault.channel is None:
            return None
        if frame.kind != Kind.INFER and plan.fault.channel != "stall":
            return None
        return plan.fault.channel if plan.frames.random() < plan.fault.channel_rate else None

    def stalls(self, connection: FaultyConnection) -> None:
        """``connection`` takes nothing until it hears that the fault is over."""
        self._stalled.add(connection)

    def forget(self, connection: FaultyConnection) -> None:
        self._stalled.discard(connection)


class _FaultyPace(Pace):
    """A model that is made slow is never quick: it must not sleep on the loop."""

    def __init__(self, injector: Injector) -> None:
        super().__init__()
        self._injector = injector

    def quick(self, rows: int, *, size_bytes: int = 0) -> bool:
        fault = self._injector.fault
        return not (fault is not None and fault.slow) and super().quick(rows, size_bytes=size_bytes)


class FaultyConnection(Connection):
    """A gateway's connection to which things happen on demand."""

    def __init__(self, server: TensorServer, *, injector: Injector) -> None:
        super().__init__(server)
        self._injector = injector
        self._deaf = False
        self._held: list[Frame] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._injector.forget(self)
        super().connection_lost(exc)

    def go_on(self) -> None:
        """The stall is over: take what came meanwhile, as a process does that was stopped."""
        held, self._held = self._held or [], None
        try:
            for frame in held:
                self._take(frame)
        except ProtocolError:
            self.abort()

    def _take(self, frame: Frame) -> None:
        if self._deaf:
            return
        if self._held is not None:
            self._held.append(frame)
            return
        match self._injector.befalls(frame):
            case "cut":
                self._deaf = True
                self.abort()
            case "garble":
                self._deaf = True
                if self._transport is not None:
                    self._transport.write(GARBAGE)
            case "stall":
                self._held = [frame]
                self._injector.stalls(self)
            case _:
                super()._take(frame)
