"""One scenario on a system that is ready: calm, faults under load, and what was seen of it.

The steady state is a hypothesis that comes first: if calm isn't good, nothing is hurt, for it would tell nothing.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtests.chaos import flatness, record, verdicts
from loadtests.chaos.blows import Blow, Done
from loadtests.chaos.faults import name_of
from loadtests.chaos.hands import HANDS
from loadtests.chaos.right import IMAGES
from loadtests.chaos.schedule import Due
from loadtests.chaos.spec import Scenario
from loadtests.chaos.stickiness import keys_of
from loadtests.chaos.verdict import Verdict
from loadtests.chaos.verdicts import Performed, Seen
from loadtests.chaos.watch import Watch
from loadtests.chaos.world import LITE, MODEL, World
from loadtests.resilience import evidence
from loadtests.resilience.answers import Outputs, digit_documents
from loadtests.resilience.client import NoReply, encode
from loadtests.resilience.errors import RunError
from loadtests.resilience.load import closed_loop
from loadtests.resilience.system import HOST, ROOT
from loadtests.rollouts.admin import OVER
from loadtests.rollouts.files import rollout_file
from loadtests.users.load import arrivals
from loadtests.users.rows import Outcome, Row, parse_rows

Say = Callable[[str], None]

_LEAD_S: Final = 0.3
_AGAIN_S: Final = 5.0
_PROGRESS_S: Final = 5.0
_PROGRESS_LINES: Final = 60
"""About so many in a long run."""
_HANDS_S: Final = 150.0
_ROLLOUT_S: Final = 90.0
_PEAK_S: Final = 4.0
_PEAK_CLIENTS: Final = 16
_COMPUTED: Final = "holdfast_model_batch_rows_sum"


@dataclass
class Result:
    """A run that came to its end. `held` if every promise was kept."""

    scenario: Scenario
    folder: Path
    verdicts: Sequence[Verdict]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @property
    def held(self) -> bool:
        return bool(self.verdicts) and all(verdict.held for verdict in self.verdicts)


@dataclass
class _Gathered:
    """What a run collects on its way."""

    performed: list[Performed] = field(default_factory=list)
    promises: list[tuple[bool, str]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    report: Mapping[str, Any] | None = None
    """Of the rollout, when it was over."""


class Run:
    """Of one scenario; `go` once."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        seed: int,
        plan: Sequence[Due],
        world: World,
        known: Mapping[str, Sequence[Outputs]],
        folder: Path,
        say: Say,
    ) -> None:
        self.scenario = scenario
        self.gathered = _Gathered()
        self.watch = Watch(world)
        self._users_seed = f"{seed}/{scenario.name}/users"
        self._plan = plan
        self._world = world
        self._known = known
        self._folder = folder
        self._say = say
        self._samples = folder / record.SAMPLES

    async def go(self) -> Result:
        """Calm that isn't good is waited for once more: a machine has other things to do."""
        peak = await self._peak()
        calm, told, seen = await self._attempt(peak)
        if not calm.held:
            self._say(f"{self.scenario.name}: calm isn't good ({calm.seen}); once more")
            await asyncio.sleep(_AGAIN_S)
            self.watch = Watch(self._world)
            calm, told, seen = await self._attempt(peak)
        rows = parse_rows(self._samples.read_text().splitlines()[1:])
        if seen is None:
            self._say(f"{self.scenario.name}: calm isn't good ({calm.seen}): nothing is hurt")
            return Result(self.scenario, self._folder, [calm], rows, told)
        notes = [*self.gathered.notes, *told]
        return Result(self.scenario, self._folder, [calm, *verdicts.judge(self.scenario, rows, seen)], rows, notes)

    async def _attempt(self, peak: float | None) -> tuple[Verdict, list[str], Seen | None]:
        """Calm, and if that is good all that follows; without it nothing was seen."""
        before, computed = await self._counted()
        process = await self._users()
        watching = asyncio.get_running_loop().create_task(self.watch.run())
        try:
            calm = await self._calm()
            if calm.held:
                await self._hurt()
            else:
                process.terminate()
            told = await self._end_of(process)
        finally:
            watching.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        return calm, told, await self._seen(before, computed, peak) if calm.held else None

    # Load

    async def _peak(self) -> float | None:
        """What the system can do at most, if the load goes beyond; then that is the load's rate."""
        if self.scenario.load.shape != "overload":
            return None
        bodies = [encode("POST", f"/v2/models/{MODEL}/infer", body) for body in digit_documents()[:IMAGES]]
        peak = await closed_loop(
            self._world.system.pool, bodies, clients=_PEAK_CLIENTS, seconds=_PEAK_S, timeout_s=15.0
        )
        rate = min(max(1.0, peak), self.scenario.load.rate)
        self._say(f"{self.scenario.name}: it can do {peak:.0f}/s at most")
        load = msgspec.structs.replace(self.scenario.load, rate=rate)
        self.scenario = msgspec.structs.replace(self.scenario, load=load)
        return peak

    async def _users(self) -> asyncio.subprocess.Process:
        """The load's process, told to go."""
        stable: dict[str, list[str]] = {MODEL: [self._world.primary], LITE: [f"{LITE}@v1"]}
        if self.scenario.rollout is not None:
            stable[MODEL].append(f"{MODEL}@{self.scenario.rollout.version}")
        plan = self._folder / "users.json"
        load = {**msgspec.structs.asdict(self.scenario.load), "users": self.scenario.load.users.weights()}
        document = {
            "host": HOST,
            "port": self._world.system.port,
            "seed": self._users_seed,
            "calm_s": float(self.scenario.calm),
            "load": load,
            "known": self._known,
            "stable": stable,
            "samples": str(self._samples),
        }
        await asyncio.to_thread(plan.write_text, json.dumps(document))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.users", str(plan)),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        if (await process.stdout.readline()).strip() != b"ready":
            raise RunError(f"the users didn't come: {await process.wait()}")
        self._world.began = time.monotonic() + _LEAD_S
        process.stdin.write(f"go {self._world.began!r}\n".encode())
        await process.stdin.drain()
        return process

    async def _calm(self) -> Verdict:
        """Whether all was well in it; what was due at its end gets a moment to be answered."""
        calm_s = float(self.scenario.calm)
        await self._until(calm_s)
        load = self.scenario.load
        expected = 0
        for arrival in arrivals(load, self._users_chance(), calm_s=calm_s):
            if arrival.due_s >= calm_s - 0.5:
                break
            expected += 1
        lines = (await asyncio.to_thread(self._samples.read_text)).split("\n")
        return verdicts.steady_state(parse_rows(lines[1:-1]), calm_s, expected)

    def _users_chance(self) -> random.Random:
        """The users' own, from its beginning: what they do can be told again."""
        return random.Random(self._users_seed)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._world.now_s))

    async def _end_of(self, process: asyncio.subprocess.Process) -> list[str]:
        """Its last line as notes: an example of each way in which answers weren't good."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                said = (await process.stdout.read()).decode().strip().splitlines()
                await process.wait()
        except TimeoutError:
            raise RunError("the users don't come to an end") from None
        if process.returncode != 0 or not said:
            raise RunError(f"the users ended with code {process.returncode}")
        told = json.loads(said[-1])
        return [f"first {what}: {text}" for what, text in told["examples"].items()]

    # Faults

    async def _hurt(self) -> None:
        """Every fault at its moment, the rollout at its own, and both to their end."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell())
            hands = [group.create_task(self._do(due)) for due in self._plan]
            if self.scenario.rollout is not None:
                hands.append(group.create_task(self._roll_out()))
            await self._until(self.scenario.load.seconds)
            if hands:
                _, late = await asyncio.wait(hands, timeout=_HANDS_S)
                for hand in late:
                    hand.cancel()
                    self.gathered.troubles.append("a fault that wasn't made good in time")
            telling.cancel()
        self.gathered.performed.sort(key=lambda one: one.at_s)

    async def _do(self, due: Due) -> None:
        await self._until(due.at_s)
        name = name_of(due.fault)
        if due.fault.phase is not None and not await self._reached(due.fault.phase, name):
            return
        at_s = self._world.now_s
        self._tell_moment(name)
        try:
            done = await HANDS[type(due.fault)](Blow(self._world, due.fault, due.lot))
        except (RunError, NoReply) as error:
            self.gathered.troubles.append(f"{name} at {at_s:.1f} s: {error}")
            done = Done("-", f"failed: {error}")
        self.gathered.promises += [(promise.held, promise.text) for promise in done.promises]
        self.gathered.performed.append(
            Performed(
                at_s=at_s if done.struck_s is None else done.struck_s,
                until_s=done.until_s,
                fault=due.fault,
                name=name,
                target=done.target,
                detail=done.detail,
                back_s=done.back_s,
                excused=done.excused,
            )
        )

    async def _reached(self, phase: str, name: str) -> bool:
        """Whether the rollout comes to this phase while there is load."""
        left_s = self.scenario.load.seconds - self._world.now_s
        try:
            await self._world.rollouts.until(phase, lambda one: one["phase"] == phase, within_s=left_s)
        except RunError as error:
            self.gathered.troubles.append(f"{name}: {error}")
            return False
        return True

    async def _roll_out(self) -> None:
        """Started, and followed to its end or the load's."""
        rollout = self.scenario.rollout
        assert rollout is not None
        await self._until(float(rollout.at))
        text = rollout_file(
            rollout.version,
            steps=rollout.steps,
            pause=rollout.pause,
            bake=rollout.bake,
            analysis=rollout.analysis,
            stickiness=rollout.stickiness,
        )
        self._tell_moment(f"rollout of {rollout.version}")
        try:
            await self._world.rollouts.start(text, why=self.scenario.name)
            if self.scenario.must.ends_as is not None:
                self.gathered.report = await self._world.rollouts.until(
                    "the rollout is over", lambda one: one["phase"] in OVER and one["settled"], within_s=_ROLLOUT_S
                )
        except RunError as error:
            self.gathered.troubles.append(f"the rollout of {rollout.version}: {error}")
            self.gathered.report = await self._world.rollouts.report()

    async def _tell(self) -> None:
        """A line now and then, of what was answered since the last one."""
        with self._samples.open() as samples:
            samples.readline()
            half = ""
            while True:
                await asyncio.sleep(max(_PROGRESS_S, self.scenario.load.seconds / _PROGRESS_LINES))
                *lines, half = (half + samples.read()).split("\n")
                rows = parse_rows(lines)
                counts = {what: sum(row.outcome is what for row in rows) for what in Outcome}
                said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
                self._tell_moment(said or "nothing answered")

    def _tell_moment(self, what: str) -> None:
        self._say(f"{self.scenario.name}: {self._world.now_s:5.1f} of {self.scenario.load.seconds:g} s  {what}")

    # What was seen

    async def _counted(self) -> tuple[evidence.Counters, int]:
        """What the system has counted so far: attempts, and rows that models computed."""
        text = str(await self._world.system.ask("GET", "/metrics"))
        rows = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(_COMPUTED)]
        return evidence.counters(text), round(sum(map(float, rows)))

    async def _seen(self, before: evidence.Counters, computed: int, peak: float | None) -> Seen:
        try:
            after, computed_after = await self._counted()
        except RunError as error:
            after, computed_after = {}, computed
            self.gathered.troubles.append(f"in the end: {error}")
        growth = evidence.grown(before, after)
        self.gathered.notes += evidence.described(growth)
        if (flat := self.scenario.must.flat) is not None:
            seconds = self.scenario.load.seconds
            self.gathered.notes += flatness.described(flat, self.watch.counted, seconds=seconds)
        report = self.gathered.report or {}
        return Seen(
            performed=self.gathered.performed,
            promises=self.gathered.promises,
            attempts={
                outcome: count
                for (name, version, outcome), count in growth.items()
                if name == evidence.ATTEMPTS and version == self._world.primary
            },
            breakers=self.watch.values("breaker"),
            ejected=self.watch.ejected,
            memory=self.watch.values(verdicts.MEMORY),
            counted=self.watch.counted,
            peak=peak,
            computed=computed_after - computed,
            keys=keys_of(self.scenario.load, self._users_chance(), calm_s=float(self.scenario.calm)),
            rollback_s=report.get("rollback_took_s"),
            ended_as=report.get("phase"),
            reason=str(report.get("reason", "")),
            troubles=self.gathered.troubles,
        )
