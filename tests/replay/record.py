"""Records event logs for ``test_recorded_logs.py``.

``python -m tests.replay.record FOLDER`` plays every rollout of ``RECORDINGS`` in the simulation and writes its log to
``tests/replay/logs/FOLDER``; with names behind it only these. ``python -m tests.replay.record FOLDER NAME --log PLACE``
takes the log of a real Holdfast instead: a path, or a URL (a copy that ``holdfast backup`` made is one, too).

A folder that is there is evidence of what was decided once. It is never written again: the logs of a change that
decides otherwise get a new one.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from models.registry import Registry
from serving.rollout.desired import encode_desired
from serving.rollout.event_log import EventLog, open_log
from serving.rollout.history import replayed
from serving.rollout.state import Phase, RolloutState
from serving.routing.outcomes import Kind
from tests.fakes import publish_version
from tests.replay.recorded import LOGS, kept
from tests.simulation.rollout_world import Story, World, failing, healthy, patient, ten_times_slow

FILE: Final = """
model: digits
version: v2
steps: [{setWeight: 5}, {pause: {duration: 2s}}, {setWeight: 25}, {pause: {}}, {setWeight: 100}]
analysis:
  minAttempts: 60
  latencyObjective: 250ms
  slo: {objective: 0.99, burnRates: [{long: 20s, short: 4s, factor: 14.4}]}
progressDeadline: 20s
bake: {duration: 7s}
"""


def over_budget(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    """The stable version does badly, too, though not badly enough to excuse the canary's budget."""
    return "failed" if luck < (0.18 if canary else 0.06) else None


def nan(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    """Both do as badly, but the canary by answers that break its signature: no comparison can tell."""
    return ("invalid" if canary else "failed") if luck < 0.3 else None


def bad_in_the_bake(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "failed" if luck < (0.7 if weight == 1 and nth > 300 else 0.005) else None


def outage(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "failed" if luck < 0.4 else None


def tired_at_the_deadline(state: RolloutState) -> str:
    return "abort" if state.pause_cause == "evidence" else patient(state)


@dataclass(frozen=True)
class Recording:
    """One rollout; with ``compacted`` the log begins with a snapshot of its middle."""

    story: Story
    compacted: bool = False


RECORDINGS: Final = {
    "succeeded": Recording(Story(healthy, Phase.SUCCEEDED)),
    "succeeded-compacted": Recording(Story(healthy, Phase.SUCCEEDED), compacted=True),
    "evidence": Recording(Story(failing, Phase.ROLLED_BACK)),
    "slow": Recording(Story(ten_times_slow, Phase.ROLLED_BACK)),
    "burn-rate": Recording(Story(over_budget, Phase.ROLLED_BACK)),
    "validity": Recording(Story(nan, Phase.ROLLED_BACK)),
    "golden-test": Recording(Story(healthy, Phase.ROLLED_BACK, golden="golden example 2 is off by 0.3")),
    "never-ready": Recording(Story(healthy, Phase.ROLLED_BACK, ready_after_s=60.0)),
    "crashes": Recording(Story(healthy, Phase.ROLLED_BACK, crash_every_s=1.0)),
    "bad-in-the-bake": Recording(Story(bad_in_the_bake, Phase.ROLLED_BACK)),
    "aborted": Recording(
        Story(
            healthy,
            Phase.ABORTED,
            person=lambda state: "abort" if state.weight == 25 and state.phase is not Phase.ROLLING_BACK else "",
        )
    ),
    "outage-until-the-deadline": Recording(Story(outage, Phase.ABORTED, person=tired_at_the_deadline)),
}


def recorded(recording: Recording, registry: Registry) -> EventLog:
    """The log of the rollout, from its start to its end."""
    world = World(recording.story, registry, FILE)
    assert world.live_once()
    assert world.state.phase is recording.story.end, world.state.reason
    log = world.log
    if recording.compacted:
        middle = log.head()[0] // 2
        log.snapshot(middle, encode_desired(replayed(log, until=middle).desired))
        log.compact(middle + 1)
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--log", help="take this log instead of a simulated one")
    args = parser.parse_args()
    logging.disable()
    folder = LOGS / args.folder
    names = args.names or list(RECORDINGS)
    if args.log and len(names) != 1:
        parser.error("--log: give the recording one name")
    if unknown := [name for name in names if not args.log and name not in RECORDINGS]:
        parser.error(f"there is no such recording: {', '.join(unknown)}")
    if there := [name for name in names if (folder / f"{name}.jsonl").exists()]:
        parser.error(f"recorded already, and never written again: {', '.join(there)}")
    with TemporaryDirectory() as store:
        registry = Registry(Path(store))
        for version in ("v1", "v2"):
            publish_version(registry, "digits", version, version.encode())
        for name in names:
            log = open_log(args.log, create=False) if args.log else recorded(RECORDINGS[name], registry)
            kept(folder / f"{name}.jsonl", log)
            print(f"{name}: {log.head()[0]} events")


if __name__ == "__main__":
    main()
