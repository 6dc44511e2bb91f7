"""Scenarios in which nothing may be taken back."""

import asyncio
from typing import Any, Final

from loadtests.rollouts import history, seen
from loadtests.rollouts.files import MODEL, PRIOR, STEPS, rollout_file
from loadtests.rollouts.stage import RATE, Stage
from loadtests.rollouts.store import BETTER, holdfast

SHADOW: Final = {"agreement": 0.9, "minCompared": 50, "share": 0.2}
OUTAGE_RATE: Final = 0.2
OUTAGE_S: Final = 12.0


async def good(stage: Stage) -> None:
    """A better version goes all the way, started with the command."""
    name = f"{MODEL}@{BETTER}"
    async with stage.traffic():
        await stage.calm()
        await stage.start_by_command(rollout_file(BETTER, analysis={"shadow": SHADOW}))
        report = await stage.until_over()
        await stage.rest()
    stage.ended_as("Succeeded")
    stage.unharmed()
    events = await stage.rollouts.history(report["rollout"])
    weights = [event["event"]["weight"] for event in events if history.kind(event) == "SetWeight"]
    stage.promise(weights == list(STEPS), f"through {', '.join(map(str, weights))} % and a bake")
    _agreement(stage, report["evidence"])
    right = seen.accuracy(stage.samples, stage.known, stage.truth)
    stage.promise(
        name in right and f"{MODEL}@{PRIOR}" in right,
        "accuracy: " + ", ".join(f"{version} {share:.1%}" for version, share in right.items()),
    )
    moved = seen.moved_back(stage.samples, name, rate=RATE, until_s=stage.now_s)
    stage.promise(
        moved.keys > 0 and moved.back == 0, f"{moved.keys} stickiness keys met it, {moved.back} answers went back"
    )
    last = [sample for sample in stage.samples if sample.due_s > stage.now_s - stage.rest_s / 2]
    stage.promise({sample.by for sample in last} == {name}, f"all of the last {len(last)} answers are {name}'s")
    stage.nothing_twice(events)
    await stage.replays()
    code, said, complained = await holdfast("rollout", "status", MODEL, *stage.config)
    stage.promise(
        code == 0 and "Succeeded" in said, f"holdfast rollout status tells it{'' if not code else complained}"
    )


def _agreement(stage: Stage, evidence: Any) -> None:
    compared, agreed = evidence["compared"], evidence["agreed"]
    share = agreed / compared if compared else 0.0
    stage.promise(
        compared >= SHADOW["minCompared"] and share >= SHADOW["agreement"],
        f"agreement of mirrored answers: {agreed} of {compared}, {share:.1%}",
    )


async def shared_outage(stage: Stage) -> None:
    """Both versions fail alike for a while: that says nothing about the canary."""
    phases: set[str] = set()
    pauses: dict[int, str | None] = {25: "4s", 50: "8s"}
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(BETTER, pauses=pauses, analysis={"minAttempts": 40}))
        await stage.until_weight(25)
        await asyncio.gather(
            stage.fault(BETTER, fail_rate=OUTAGE_RATE, seed=1), stage.fault(PRIOR, fail_rate=OUTAGE_RATE, seed=2)
        )
        began_s = stage.now_s
        while stage.now_s < began_s + OUTAGE_S:
            report = await stage.rollouts.report()
            if report is not None:
                phases.add(report["phase"])
                stage.report = report
            await asyncio.sleep(0.2)
        evidence = {} if stage.report is None else stage.report["evidence"]
        await stage.pardon()
        stage.promise(not phases & {"RollingBack", "RolledBack"}, f"in the outage it was {', '.join(sorted(phases))}")
        report = await stage.rollouts.report()
        if report is not None and report["phase"] == "Paused":
            stage.note(f"it had paused: {report['reason']}")
            await stage.rollouts.command("resume")
        await stage.until_over()
        await stage.rest()
    for variant in ("canary", "stable"):
        counts = evidence.get(variant, {})
        stage.note(f"{variant}: {counts.get('bad')} of {counts.get('attempts')} first attempts bad in the end of it")
    bad = {variant: evidence.get(variant, {}).get("bad", 0) for variant in ("canary", "stable")}
    stage.promise(min(bad.values()) > 0, f"both met it: {bad['canary']} bad first attempts and {bad['stable']}")
    stage.ended_as("Succeeded")
    stage.unharmed(degraded=True)
