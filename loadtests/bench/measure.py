"""`run`: all systems in turn, round after round, and the raw samples of it."""

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from loadtests.bench import process_tree, wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.install import PEERS
from loadtests.bench.plan import WARM_UP_S, Plan, Progress
from loadtests.bench.results import Failure, Sample
from loadtests.bench.server import Server
from loadtests.bench.systems import READY_TIMEOUT_S, System
from loadtests.bench.workloads import IN_PROCESS, Body, Payload, complaint, post, write_body

WARM_UP_CONNECTIONS = 32
IN_PROCESS_FROM = "orientation"  # the model whose own time is worth knowing


Event = Sample | Failure


def run(plan: Plan, say: Callable[[str], None]) -> Iterator[Event]:
    """Yields as it measures, so that an interrupted run leaves what it has."""
    process_tree.adopt_orphans()
    progress = Progress(plan.expected_s, time.monotonic)
    for number in range(1, plan.repeat + 1):
        one = _Round(plan, number, say)
        yield from one.in_process()
        for sharing in plan.in_round(number):
            names = " and ".join(system.name for system in sharing)
            say(f"round {number}/{plan.repeat}: {names} (about {progress.minutes_left:.0f} min left)")
            yield from one.measure(sharing)
            progress.done(plan.seconds_of(sharing))


class _Round:
    """All systems once."""

    def __init__(self, plan: Plan, number: int, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._number = number
        self._say = say
        self._work = plan.place.work
        self._expected: dict[str, list[float]] = json.loads((self._work / "expected.json").read_text())

    def measure(self, sharing: Sequence[System]) -> Iterator[Event]:
        """One start of the server that `sharing` are. If it fails, whoever wasn't done with by then has failed."""
        left = list(sharing)
        try:
            with Server(sharing[0].name, sharing[0].launch(self._plan.place)) as server:
                while left:
                    for payload in self._plan.measured_with(left[0]):
                        yield from self._load(server, left[0], payload)
                    left.pop(0)
        except BenchError as error:
            self._say(f"  {error}")
            for system in left:
                yield Failure(self._number, system.name, str(error))

    def in_process(self) -> Iterator[Sample]:
        """The model of the images in a plain loop, with nothing around it."""
        payloads = [payload for payload in self._plan.payloads if payload.model == IN_PROCESS_FROM]
        if payloads:
            self._say(f"round {self._number}/{self._plan.repeat}: {IN_PROCESS}")
        program = [self._plan.place.program("base", "python"), str(PEERS / "inprocess.py")]
        for payload in payloads:
            arguments = [payload.model, str(self._work / f"{payload.name}.f32"), str(self._plan.seconds)]
            raw = _json_from(
                [*program, *arguments],
                env=self._plan.place.env("base", {}),
                timeout_s=self._plan.seconds + 60,
            )
            yield self._said(
                Sample(
                    round=self._number,
                    system=IN_PROCESS,
                    workload=payload.name,
                    connections=1,
                    requests=int(raw["runs"]),
                    per_second=raw["runs"] / raw["seconds"],
                    p50_ms=raw["p50_ms"],
                    p99_ms=raw["p99_ms"],
                    failed=0,
                )
            )

    def _load(self, server: Server, system: System, payload: Payload) -> Iterator[Sample]:
        """Waits for a right answer, warms up, and measures at each number of connections."""
        body = write_body(payload, self._work, binary_form=system.binary_form)
        path = system.paths[payload.name]
        urls = [f"http://127.0.0.1:{port}{path}" for port in system.ports(self._plan.place)]
        url = self._find(server, urls, body, self._expected[payload.name])
        warm_up = min(WARM_UP_CONNECTIONS, payload.connections[-1])
        wrk.run(url, body, connections=warm_up, seconds=WARM_UP_S)
        for connections in payload.connections:
            yield self._sample(server, system.name, url, body, payload=payload.name, connections=connections)

    def _find(self, server: Server, urls: Sequence[str], body: Body, expected: list[float]) -> str:
        """The first of `urls` that gives the right answer, as soon as one does."""
        right: list[str] = []

        def ask() -> str | None:
            wrong = None
            for url in urls:
                wrong = _wrong(url, body, expected)
                if wrong is None:
                    right.append(url)
                    return None
            return wrong

        server.wait(ask, timeout_s=READY_TIMEOUT_S)
        return right[0]

    def _sample(self, server: Server, system: str, url: str, body: Body, *, payload: str, connections: int) -> Sample:
        before = process_tree.cpu_seconds(server.tree())
        with process_tree.PeakMemory(server.tree) as memory:
            load = wrk.run(url, body, connections=connections, seconds=self._plan.seconds)
        tree = server.tree()
        cpu_s = process_tree.cpu_seconds(tree) - before
        pss_bytes = process_tree.pss_bytes(tree)
        return self._said(
            Sample(
                round=self._number,
                system=system,
                workload=payload,
                connections=connections,
                requests=load.requests,
                per_second=load.per_second,
                p50_ms=load.p50_ms,
                p99_ms=load.p99_ms,
                failed=load.bad_status + load.socket_errors,
                cpu_s=cpu_s,
                rss_mb=memory.peak_bytes / 1e6,
                pss_mb=None if pss_bytes is None else pss_bytes / 1e6,
            )
        )

    def _said(self, sample: Sample) -> Sample:
        self._say(_line(sample))
        return sample


def _wrong(url: str, body: Body, expected: list[float]) -> str | None:
    try:
        return complaint(post(url, body), expected)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"


def _json_from(argv: list[str], *, env: Mapping[str, str], timeout_s: float) -> dict[str, float]:
    try:
        ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise BenchError(f"{Path(argv[1]).name} failed: {error}") from error
    raw: dict[str, float] = json.loads(ended.stdout)
    return raw


def _line(sample: Sample) -> str:
    cost = "" if sample.cpu_s_per_1000 is None else f"{sample.cpu_s_per_1000:7.3f} CPU s/1000"
    failed = f"  NOT OK {sample.failed}" if sample.failed else ""
    return (
        f"  {sample.workload:<14} c={sample.connections:<4} p50 {sample.p50_ms:8.3f} ms  p99 {sample.p99_ms:8.3f} ms  "
        f"{sample.per_second:9.0f} req/s  {cost}{failed}"
    )
