"""What a scenario works with: the system, its rollouts, load on it, and the promises that it holds them to.

Not here: the scenarios themselves (`scenarios.py` lists them).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.resilience.answers import Judge, Outputs
from loadtests.resilience.client import encode
from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind, Sample, percentile
from loadtests.resilience.load import Load
from loadtests.resilience.processes import kill
from loadtests.resilience.schedule import Arrival, steady
from loadtests.resilience.system import HoldfastUnderTest
from loadtests.rollouts import history, seen
from loadtests.rollouts.admin import OVER, Report, Rollouts
from loadtests.rollouts.files import MODEL
from loadtests.rollouts.history import Event, TakenBack
from loadtests.rollouts.store import holdfast
from loadtests.rollouts.verdict import Outcome, Promise, Row

RATE: Final = 150.0
IMAGES: Final = range(600)
CALM_S: Final = 1.5
OVER_S: Final = 150.0
"""A rollout that isn't over by then never will be."""
BACK_S: Final = 60.0
"""A control plane that was killed is back by then."""
_CLIENT_TIMEOUT_S: Final = 15.0
_LASTS_S: Final = 3600.0


@dataclass
class Stage:
    """One scenario's run. `rest_s`: so long the load goes on when the rollout is over."""

    name: str
    system: HoldfastUnderTest
    documents: Sequence[bytes]
    known: Mapping[str, Sequence[Outputs]]
    truth: Sequence[int]
    rng: random.Random
    rest_s: float
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the setup, such as its database server."""
    promises: list[Promise] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    report: Report | None = None
    """The last one of the rollout that it is about."""
    back: TakenBack | None = None
    last_answer_s: float | None = None
    began_wall: float = 0.0
    _load: Load | None = None

    def __post_init__(self) -> None:
        self.rollouts = Rollouts(self.system.pool)

    # Load

    @contextlib.asynccontextmanager
    async def traffic(
        self, *, images: Sequence[int] = IMAGES, rate: float = RATE, stable: Sequence[str] = ()
    ) -> AsyncIterator[Load]:
        """Steady load, half of it with stickiness keys. `stable`: who may answer, by default everyone known.

        The first one is the scenario's: its clock is the stage's, and its samples are those of the table.
        """
        judge = Judge(self.known, stable or tuple(self.known))
        load = Load(self.system.pool, judge, self._encoder(images, rate), timeout_s=_CLIENT_TIMEOUT_S)
        if self._load is None:
            self._load = load
        task = asyncio.get_running_loop().create_task(load.run(steady(rate, images=images, at_most_s=_LASTS_S)))
        await asyncio.sleep(0)
        if self._load is load:
            self.began_wall = time.time() - load.now_s
            self.samples = load.samples
        try:
            yield load
        finally:
            load.stop()
            await task
            self.examples |= judge.examples

    def _encoder(self, images: Sequence[int], rate: float) -> Callable[[Arrival], bytes]:
        path = f"/v2/models/{MODEL}/infer"
        plain = {image: encode("POST", path, self.documents[image]) for image in images}

        def encoded(arrival: Arrival) -> bytes:
            key = seen.sticky_key(round(arrival.due_s * rate))
            if key is None:
                return plain[arrival.image]
            return encode("POST", path, self.documents[arrival.image], {"x-sticky-key": key})

        return encoded

    @property
    def now_s(self) -> float:
        return 0.0 if self._load is None else self._load.now_s

    def on_load_clock(self, wall: float) -> float:
        """A moment of the wall clock, in seconds since the load began."""
        return wall - self.began_wall

    async def calm(self) -> None:
        await asyncio.sleep(CALM_S)

    async def rest(self) -> None:
        await asyncio.sleep(self.rest_s)

    # Rollouts

    async def start(self, text: str) -> Report:
        self.report = await self.rollouts.start(text, why=self.name)
        return self.report

    async def start_by_command(self, text: str) -> Report:
        """As people do it: with `holdfast rollout start`."""
        path = self.system.folder / "rollout.yaml"
        path.write_text(text)
        code, said, complained = await holdfast("rollout", "start", "-f", str(path), *self.config)
        if code:
            raise RunError(f"holdfast rollout start: {complained.strip() or said.strip()}")
        report = await self.rollouts.report()
        if report is None:
            raise RunError(f"holdfast rollout start said '{said.strip()}', but there is no rollout")
        self.report = report
        return report

    @property
    def config(self) -> tuple[str, str]:
        return ("-c", str(self.system.folder / "serve.yaml"))

    async def until_over(self, *, within_s: float = OVER_S) -> Report:
        """Until nothing is left to be done."""
        self.report = await self.rollouts.until(
            "the rollout is over", lambda report: report["phase"] in OVER and report["settled"], within_s=within_s
        )
        return self.report

    async def until_phase(self, phase: str, *, within_s: float = OVER_S) -> Report:
        """Raises `RunError` if it is over before."""
        report = await self.rollouts.until(
            phase, lambda one: one["phase"] == phase or one["phase"] in OVER, within_s=within_s
        )
        if report["phase"] != phase:
            raise RunError(f"never {phase}: it is {report['phase']} ({report['reason']})")
        return report

    async def until_weight(self, weight: int, *, within_s: float = OVER_S) -> Report:
        """Until the canary has at least this weight in all gateways. Raises `RunError` if it is over before."""
        report = await self.rollouts.until(
            f"{weight} %", lambda one: one["weight"] >= weight or one["phase"] in OVER, within_s=within_s
        )
        if report["phase"] in OVER:
            raise RunError(f"never at {weight} %: it is {report['phase']} ({report['reason']})")
        return report

    async def fault(self, version: str, **fault: Any) -> None:
        """Tell all replicas of a version to misbehave."""
        document = {"model": MODEL, "version": version, "replica": "all", "fault": fault}
        entries = await self.system.ask("POST", "/v2/holdfast/faults", document)
        if not any(entry["meant"] and entry["answered"] for entry in entries):
            raise RunError(f"no replica of {version} obeyed {fault}: {entries}")

    async def pardon(self) -> None:
        await self.system.ask("DELETE", "/v2/holdfast/faults")

    async def kill_controller(self) -> float:
        """SIGKILL to the control plane's process. Seconds until another one has taken over."""
        pid = await self.rollouts.pid()
        kill(pid)
        _, seconds = await self.rollouts.until_controller(
            "another control plane writes",
            lambda one: one["pid"] != pid and one["state"] == "writing",
            within_s=BACK_S,
        )
        return seconds

    async def log(self) -> str:
        """Where the event log is: a path or a URL."""
        said, _ = await self.rollouts.until_controller(
            "the controller names its log", lambda one: bool(one["log"]), within_s=30
        )
        return str(said["log"])

    # What has to hold

    def promise(self, held: bool, text: str) -> None:
        self.promises.append(Promise(held, text))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def unharmed(self, *, degraded: bool = False) -> None:
        """No client saw an error, and nobody got a wrong answer. `degraded`: fallbacks may have helped."""
        row = self.row()
        self.promise(row.errors == 0, f"{row.errors} client errors in {row.requests} requests")
        self.promise(row.wrong == 0, f"{row.wrong} wrong answers")
        if not degraded:
            self.promise(row.degraded == 0, f"{row.degraded} degraded answers")
        if row.errors or row.wrong:
            self.notes += [f"first {what}: {example}" for what, example in self.examples.items()]
            self.notes += [f"{count} {what}" for what, count in sorted(self._ways().items())]

    def _ways(self) -> dict[str, int]:
        ways: dict[str, int] = {}
        for sample in self.samples:
            if sample.kind is not Kind.OK:
                ways[f"{sample.kind} {sample.note}"] = ways.get(f"{sample.kind} {sample.note}", 0) + 1
        return ways

    def ended_as(self, phase: str) -> None:
        found = "no rollout" if self.report is None else str(self.report["phase"])
        why = "" if found == phase or self.report is None else f": {self.report['reason']}"
        self.promise(found == phase, f"it ended as {found}{why}")

    def nothing_twice(self, events: Sequence[Event]) -> None:
        found = history.done_twice(events)
        self.promise(not found, "; ".join(found) or f"nothing was decided or done twice in {len(events)} events")

    async def replays(self) -> None:
        """`holdfast replay` finds every decision as it was recorded, byte for byte."""
        code, said, complained = await holdfast("replay", *self.config)
        words = (said.strip() or complained.strip()).splitlines()
        self.promise(code == 0, f"holdfast replay: {words[-1] if words else f'code {code}'}")

    def row(self) -> Row:
        def count(*kinds: Kind) -> int:
            return sum(sample.kind in kinds for sample in self.samples)

        return Row(
            requests=len(self.samples),
            errors=count(Kind.FAILED, Kind.LOST),
            wrong=count(Kind.WRONG, Kind.UNMARKED),
            degraded=count(Kind.DEGRADED),
            p99_s=percentile([sample.took_s for sample in self.samples], 0.99),
        )

    def outcome(self) -> Outcome:
        report = self.report or {}
        return Outcome(
            name=self.name,
            row=self.row() if self.samples else None,
            promises=tuple(self.promises),
            end=str(report.get("phase", "")),
            reason=str(report.get("reason", "")),
            taken_back_s=report.get("rollback_took_s"),
            last_answer_s=self.last_answer_s,
            notes=tuple(self.notes),
        )
