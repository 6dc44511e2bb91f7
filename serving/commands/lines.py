"""Rollouts in lines of text: one for each model, one for each event, and what a replay came to. Pure.

Not here: one rollout on a whole screen (``serving.commands.screen``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import tzinfo
from typing import Final

from serving.commands.screen import PHASE_STYLES
from serving.commands.terminal import Line, clean, clock, date_and_clock, figure
from serving.rollout import events
from serving.rollout.evidence import VariantCounts
from serving.rollout.history import HistoryEvent, Replayed
from serving.rollout.report import Overview, RolloutReport, report

_SAYS: Final[dict[type[events.RolloutEvent], str]] = {
    events.Pause: "pauses it",
    events.Resume: "resumes it",
    events.Promote: "promotes it",
    events.Abort: "aborts it",
    events.Rollback: "rolls it back",
}


def overview_lines(overview: Overview) -> Iterator[Line]:
    """A line for each model, and what keeps rollouts from going on, if anything does."""
    controller = overview.controller
    if controller.state != "writing":
        detail = f": {controller.detail}" if controller.detail else ""
        yield [(f"the controller's state is {controller.state}{detail}", "yellow")]
    rows = [_cells(one) for one in overview.rollouts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, one in zip(rows, overview.rollouts, strict=True):
        line: Line = [(f"{cell:{width}}  ", "") for cell, width in zip(row, widths, strict=True)]
        line[0] = (line[0][0], "bold")
        line[2] = (line[2][0], PHASE_STYLES.get(one.phase, "cyan"))
        yield [*line, (clean(one.reason), "")]
    if not rows:
        yield [("no model has had a rollout yet", "")]
    shown = {f"{one.model}@{one.version}" for one in overview.rollouts if one.phase == "RolledBack"}
    for name, reason in sorted(overview.rolled_back.items()):
        if name not in shown:
            yield [(f"{name} was rolled back and stays so until a rollout of it is started: {clean(reason)}", "dim")]


def change_line(report: RolloutReport, zone: tzinfo | None) -> str:
    """How a rollout stands at its moment, for a log."""
    return "  ".join((clock(report.at, zone), *map(clean, _cells(report)), clean(report.reason)))


def _cells(one: RolloutReport) -> tuple[str, ...]:
    evidence = one.evidence
    return (
        one.model,
        f"{one.prior} → {one.version}",
        one.phase,
        f"step {max(one.step + 1, 0)}/{len(one.steps)}",
        f"{one.weight} %",
        f"evidence {figure(evidence.e_value)}/{figure(evidence.threshold)}",
    )


def history_lines(found: Iterable[HistoryEvent], *, whole: bool, zone: tzinfo | None) -> Iterator[Line]:
    """A line for each event. Windows that only follow one another have one line, unless it is to be the ``whole``."""
    run: list[HistoryEvent] = []
    for one in found:
        if isinstance(one.event, events.Observed | events.ClockTick) and not whole:
            if run and run[-1].rollout != one.rollout:
                yield _windows_line(run, zone)
                run = []
            run.append(one)
            continue
        if run:
            yield _windows_line(run, zone)
            run = []
        yield _event_line(one, zone)
    if run:
        yield _windows_line(run, zone)


def _event_line(one: HistoryEvent, zone: tzinfo | None) -> Line:
    event = one.event
    person, decision = isinstance(event, events.Command), isinstance(event, events.Decision)
    style = "bold" if person else "cyan" if decision else ""
    if isinstance(event, events.RollBackNow | events.VersionFailed):
        style = "bold red"
    because = f"  (after {one.cause})" if one.cause is not None else ""
    return [
        (f"{date_and_clock(one.wall, zone)}  {one.seq:>6}  {clean(one.rollout)}  ", "dim"),
        (f"{type(event).__name__:<16}  ", style),
        (clean(said(event)), ""),
        (because, "dim"),
    ]


def _windows_line(run: list[HistoryEvent], zone: tzinfo | None) -> Line:
    if len(run) == 1:
        return _event_line(run[0], zone)
    canary, stable, windows = VariantCounts(), VariantCounts(), 0
    for one in run:
        if isinstance(one.event, events.Observed):
            windows += 1
            canary, stable = canary.plus(one.event.observation.canary), stable.plus(one.event.observation.stable)
    first, last = run[0], run[-1]
    return [
        (f"{date_and_clock(first.wall, zone)}  {first.seq:>6}  {clean(first.rollout)}  ", "dim"),
        (f"{'Observed':<16}  ", ""),
        (f"{windows} windows up to event {last.seq}: {_counted('canary', canary)}; {_counted('stable', stable)}", ""),
    ]


def said(event: events.Event) -> str:
    """What happened, and why if that is known."""
    if isinstance(event, events.Command):
        return _ordered(event)
    return _decided(event) if isinstance(event, events.Decision) else _sighted(event)


def _ordered(command: events.Command) -> str:
    because = f": {command.why}" if command.why else ""
    if isinstance(command, events.Start):
        spec = command.spec
        return f"{command.who} starts {spec.model} {command.prior} → {spec.version}{because}"
    return f"{command.who} {_SAYS[type(command)]}{because}"


def _sighted(seen: events.Sighting) -> str:
    match seen:
        case events.Observed(observation=window):
            reporting = f"{window.gateways_reporting} of {window.gateways} gateways"
            return f"{_counted('canary', window.canary)}; {_counted('stable', window.stable)}; {reporting}"
        case events.VersionReady():
            return "the version is ready"
        case events.VersionFailed(reason=reason):
            return reason
        case events.WeightApplied():
            had = f"{seen.acknowledged} of {seen.gateways} gateways"
            return f"{seen.weight} % is known to {had} (table {seen.generation})"
        case events.VersionGone(version=version):
            return f"{version} has no replicas left"
        case events.ClockTick():
            return "time passes"


def _decided(decision: events.Decision) -> str:
    match decision:
        case events.DeployVersion(version=version):
            return f"deploy {version}"
        case events.SetWeight(version=version, weight=weight, step=step):
            return f"give {version} {weight} % (step {step + 1})"
        case events.Wait(step=step):
            return f"wait (step {step + 1})"
        case events.PauseNow(reason=reason):
            return reason
        case events.PublishPromotion(version=version, prior=prior):
            return f"give {version} all requests, keep {prior} warm"
        case events.RollBackNow(version=version, reason=reason):
            return f"take {version} back: {reason}"
        case events.Finish():
            return f"{decision.outcome}, end {decision.remove}: {decision.reason}"


def replay_lines(where: str, again: Replayed) -> Iterator[Line]:
    """Where every model stood, and whether the decisions come out as they are recorded."""
    began = f"from the snapshot of event {again.began_after} on, " if again.began_after else ""
    others = sum(again.others.values())
    beside = f"; {others} more say who wrote" if others else ""
    yield [(f"{clean(where)}: {began}{again.events} events of rollouts up to event {again.seq}{beside}", "dim")]
    for state in again.desired.rollouts.values():
        cells = _cells(report(state))
        yield [(f"{state.rollout}  ", "bold"), ("  ".join((*cells, clean(state.reason))), "")]
    for name, reason in again.desired.rolled_back.items():
        yield [(f"{name} is marked as rolled back: {clean(reason)}", "dim")]
    if again.first is None:
        yield [(f"all {again.decisions} decisions match byte for byte", "green")]
        return
    more = f", the first of {again.mismatches}" if again.mismatches > 1 else ""
    yield [(f"event {again.first.seq} isn't what is decided now{more}:", "bold red")]
    yield [("  recorded  ", "dim"), (again.first.recorded.decode("utf-8", "replace"), "")]
    yield [("  now       ", "dim"), (again.first.recomputed.decode("utf-8", "replace") or "no decision", "")]


def _counted(who: str, counts: VariantCounts) -> str:
    return f"{who} {counts.attempts:,} attempts, {counts.bad:,} bad"
