"""What happened, in lines: the differences between two snapshots, and the way of each rollout. Pure.

While nobody looks there are no snapshots, so of that time only that is told which still shows, and since when nobody
looked; breakers and rollouts know their own times. Not here: the event log of rollouts, which has everything
(``serving.rollout.history``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Final

import msgspec

from serving.live.snapshot import EVENTS_MAX, BreakerView, LiveEvent, ModelView, Snapshot, VersionView
from serving.rollout.report import RolloutReport

WATCHED_S: Final = 5.0
"""Snapshots that are no further apart than this are somebody watching."""
LATELY_S: Final = 300.0
"""How far back the first snapshot tells of breakers."""


def happened(before: Snapshot | None, now: Snapshot) -> list[LiveEvent]:
    """What changed between two snapshots, without rollouts; of the first one what still shows."""
    if before is None:
        return [event for model in now.models for version in model.versions for event in _lately(model, version, now)]
    events = [*_gateways(before, now), *_controller(before, now)]
    known = {model.name: model for model in before.models}
    for model in now.models:
        events += _model(known.get(model.name), model, now.time)
    for name in sorted(known.keys() - {model.name for model in now.models}):
        events.append(LiveEvent(now.time, "version", name, f"{name} isn't served any more"))
    unwatched_s = now.time - before.time
    if unwatched_s <= WATCHED_S:
        return events
    return [event if event.time < now.time else _unwatched(event, unwatched_s) for event in events]


def _unwatched(event: LiveEvent, unwatched_s: float) -> LiveEvent:
    """The time of the event is when it was seen, which may be long after it happened."""
    return msgspec.structs.replace(event, text=f"{event.text} (at some time in the {unwatched_s:.0f} s before)")


def newest(kept: Iterable[LiveEvent], snapshot: Snapshot) -> tuple[LiveEvent, ...]:
    """These and those of the rollouts, the newest first, as many as are shown."""
    rollouts = [event for model in snapshot.models if model.rollout for event in of_rollout(model.rollout)]
    return tuple(sorted([*kept, *rollouts], key=lambda event: -event.time)[:EVENTS_MAX])


def of_rollout(rollout: RolloutReport) -> list[LiveEvent]:
    """A line for its start, for each phase or weight that it came to, and for why it ended."""
    name = f"{rollout.rollout} ({rollout.version})"
    told = [(rollout.started_at, f"{name}: started by {rollout.started_by}")]
    for passed, following in zip_longest(rollout.history, rollout.history[1:]):
        phase, weight = rollout.phase, rollout.weight
        if following is not None:
            phase, weight = following.phase.value, following.weight
        why = f": {passed.why}" if passed.why else ""
        told.append((passed.until, f"{name}: {phase}{_at(phase, weight)}{why}"))
    return [LiveEvent(time, "rollout", rollout.model, text) for time, text in told]


def _at(phase: str, weight: int) -> str:
    return f" at {weight} %" if phase in ("Progressing", "Paused") else ""


def _gateways(before: Snapshot, now: Snapshot) -> Iterator[LiveEvent]:
    for port in sorted(set(now.gateways.ports) - set(before.gateways.ports)):
        yield LiveEvent(now.time, "gateway", "", f"a gateway came, at port {port}")
    for port in sorted(set(before.gateways.ports) - set(now.gateways.ports)):
        yield LiveEvent(now.time, "gateway", "", f"a gateway went, from port {port}")


def _controller(before: Snapshot, now: Snapshot) -> Iterator[LiveEvent]:
    was, is_ = before.controller, now.controller
    if was.state != is_.state:
        detail = f": {is_.detail}" if is_.detail else ""
        yield LiveEvent(now.time, "controller", "", f"the rollout controller is {is_.state}{detail}")
    elif was.pid != is_.pid and was.pid and is_.pid:
        yield LiveEvent(now.time, "controller", "", f"another process is the control plane: {is_.pid}")


def _model(before: ModelView | None, model: ModelView, now: float) -> Iterator[LiveEvent]:
    if before is None:
        yield LiveEvent(now, "version", model.name, f"{model.name} is served, by {model.stable or 'nobody yet'}")
        return
    if model.stable != before.stable and model.stable is not None:
        yield LiveEvent(now, "version", model.name, f"{model.name}@{model.stable} answers by default")
    known = {version.version: version for version in before.versions}
    for version in model.versions:
        yield from _version(model.name, known.get(version.version), version, now)
    for gone in sorted(known.keys() - {version.version for version in model.versions}):
        yield LiveEvent(now, "version", model.name, f"{model.name}@{gone} is gone")


def _version(model: str, before: VersionView | None, version: VersionView, now: float) -> Iterator[LiveEvent]:
    name = f"{model}@{version.version}"
    if before is None:
        yield LiveEvent(now, "version", model, f"{name} came, as {version.role}")
        return
    if version.role == "unavailable" and before.role != "unavailable":
        yield LiveEvent(now, "version", model, f"{name} isn't served any more{_because(version.reason)}")
    elif version.ready != before.ready:
        yield LiveEvent(
            now, "version", model, f"{name} {'is ready' if version.ready else 'has no replica that can take work'}"
        )
    if version.golden_failed > before.golden_failed:
        yield LiveEvent(now, "version", model, f"{name}: a replica failed its golden self-test")
    yield from _breaker(model, name, before.breaker, version.breaker)
    yield from _replicas(model, name, before, version, now)


def _breaker(model: str, name: str, before: BreakerView, breaker: BreakerView) -> Iterator[LiveEvent]:
    if breaker.state == before.state:
        return
    if breaker.state == "closed":
        yield LiveEvent(breaker.since, "breaker", model, f"{name}: breaker closed: {breaker.why}")
        return
    ports = [port for port, state in breaker.gateways.items() if state == breaker.state]
    yield LiveEvent(
        breaker.since, "breaker", model, f"{name}: breaker {breaker.state} at {', '.join(ports)}: {breaker.why}"
    )


def _replicas(model: str, name: str, before: VersionView, version: VersionView, now: float) -> Iterator[LiveEvent]:
    known = {replica.id: replica for replica in before.replicas}
    for replica in version.replicas:
        was = known.pop(replica.id, None)
        if was is None:
            if before.role != "unavailable":
                yield LiveEvent(now, "version", model, f"{name}: replica {replica.id} came")
        elif replica.ejected != was.ejected:
            what = f"left out: {replica.why}" if replica.ejected else "taken in again"
            yield LiveEvent(now, "version", model, f"{name}: replica {replica.id} is {what}")
        elif was.live and not replica.live:
            yield LiveEvent(now, "version", model, f"{name}: replica {replica.id} can't be reached")
    if version.role != "unavailable":
        for replica_id in known:
            yield LiveEvent(now, "version", model, f"{name}: replica {replica_id} went")


def _lately(model: ModelView, version: VersionView, now: Snapshot) -> Iterator[LiveEvent]:
    breaker = version.breaker
    if breaker.state != "closed" or (breaker.opened and breaker.since > now.time - LATELY_S):
        other = BreakerView(state="closed" if breaker.state != "closed" else "open")
        yield from _breaker(model.name, f"{model.name}@{version.version}", other, breaker)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
