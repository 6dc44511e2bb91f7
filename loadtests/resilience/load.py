"""Open-loop load: each request leaves when it is due, however long those before it take.

Its latency counts from that moment, so that a system that stalls can't slow down those who measure it. Not here:
when requests are due (`schedule.py`), what a good answer is (`answers.py`).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from loadtests.resilience.answers import Judge
from loadtests.resilience.client import NoReply, Pool
from loadtests.resilience.figures import Kind, Sample
from loadtests.resilience.schedule import Arrival

INFLIGHT_MAX = 4000
"""Beyond that the system has lost count, and what is due is noted as lost without being sent."""

Encode = Callable[[Arrival], bytes]


class Load:
    """Runs until it is stopped or its arrivals end. `samples` grows as requests end."""

    def __init__(self, pool: Pool, judge: Judge, encode: Encode, *, timeout_s: float) -> None:
        self.samples: list[Sample] = []
        self._pool = pool
        self._judge = judge
        self._encode = encode
        self._timeout_s = timeout_s
        self._began: float | None = None
        self._inflight: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()

    @property
    def now_s(self) -> float:
        """Seconds since the load began: the clock of its samples."""
        return 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began

    def stop(self) -> None:
        self._stopped.set()

    async def run(self, arrivals: Iterable[Arrival]) -> None:
        """Ends when everything that was sent has come to an end, too."""
        self._began = asyncio.get_running_loop().time()
        try:
            for arrival in arrivals:
                if (wait := arrival.due_s - self.now_s) > 0:
                    await self._pause(wait)
                if self._stopped.is_set():
                    break
                self._send(arrival)
            if self._inflight:
                await asyncio.wait(self._inflight)
        finally:
            for task in self._inflight:
                task.cancel()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return

    def _send(self, arrival: Arrival) -> None:
        if len(self._inflight) >= INFLIGHT_MAX:
            self._note(arrival, Kind.LOST, "", f"not sent, {INFLIGHT_MAX} are on their way", late_s=0.0)
            return
        task = asyncio.get_running_loop().create_task(self._exchange(arrival))
        self._inflight.add(task)
        task.add_done_callback(self._inflight.discard)

    async def _exchange(self, arrival: Arrival) -> None:
        late_s = self.now_s - arrival.due_s
        try:
            reply = await self._pool.send(self._encode(arrival), timeout_s=self._timeout_s)
        except NoReply as error:
            self._note(arrival, Kind.LOST, "", str(error), late_s=late_s)
        else:
            kind, by, note = self._judge.judge(arrival.image, reply)
            self._note(arrival, kind, by, note, late_s=late_s)

    def _note(self, arrival: Arrival, kind: Kind, by: str, note: str, *, late_s: float) -> None:
        self.samples.append(
            Sample(
                due_s=arrival.due_s,
                took_s=self.now_s - arrival.due_s,
                kind=kind,
                by=by,
                note=note,
                image=arrival.image,
                priority=arrival.priority,
                late_s=late_s,
            )
        )


async def closed_loop(pool: Pool, bodies: Sequence[bytes], *, clients: int, seconds: float, timeout_s: float) -> float:
    """Good answers a second with so many clients that each wait for their answer: what the system can do at most."""
    loop = asyncio.get_running_loop()
    good = 0
    until = loop.time() + seconds

    async def client(first: int) -> None:
        nonlocal good
        index = first
        while loop.time() < until:
            index += clients
            try:
                reply = await pool.send(bodies[index % len(bodies)], timeout_s=timeout_s)
            except NoReply:
                continue
            good += reply.status == 200 and loop.time() <= until
            if reply.status != 200:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client(first) for first in range(clients)))
    return good / seconds
