"""One rollout on one screen: ``render`` makes lines of a report. Pure.

Not here: writing them (``serving.commands.watch``), and one line for each of many (``serving.commands.lines``).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import tzinfo
from typing import Final

from serving.commands.terminal import (
    Line,
    Span,
    bar,
    clean,
    clock,
    drawn,
    figure,
    lasting,
    percent,
    wrapped,
)
from serving.rollout.evidence import VariantCounts
from serving.rollout.report import ControllerReport, RolloutReport, StepReport
from serving.rollout.state import Passage, Phase

LABEL: Final = 11
"""Columns before what a line says."""
ATTEMPTS: Final = 15
"""Columns of how many first attempts there were; a version with a long name takes what they leave."""
MARGIN: Final = " "
MAX_WIDTH: Final = 120

PHASE_STYLES: Final = {
    Phase.SUCCEEDED.value: "bold green",
    Phase.PAUSED.value: "bold yellow",
    Phase.ABORTED.value: "bold yellow",
    Phase.ROLLING_BACK.value: "bold red",
    Phase.ROLLED_BACK.value: "bold red",
}
_PROMOTED: Final = frozenset({Phase.PROMOTING, Phase.BAKING, Phase.SUCCEEDED})
_WENT_BACK: Final = frozenset({Phase.ROLLING_BACK.value, Phase.ROLLED_BACK.value, Phase.ABORTED.value})
_MARKS: Final[dict[str, Span]] = {
    "done": ("✓", "green"),
    "now": ("▶", "bold cyan"),
    "held": ("▶", "bold yellow"),
    "left out": ("-", "dim"),
    "ended": ("✗", "bold red"),
    "to do": ("○", "dim"),
}
_FOUND: Final[dict[str, Span]] = {
    "good": ("✓", "green"),
    "bad": ("✗", "bold red"),
    "no_data": ("·", "dim"),
    "error": ("?", "yellow"),
}


def render(
    report: RolloutReport,
    width: int,
    color: bool,
    *,
    controller: ControllerReport | None = None,
    note: str = "",
    height: int | None = None,
    zone: tzinfo | None = None,
) -> list[str]:
    """The lines, each at most ``width`` wide; at most ``height`` of them, if it is told, the oldest history left out.

    ``note`` is what keeps the screen from being of this moment. Times of day are local ones, or of ``zone``.
    """
    view = _View(report, min(width, MAX_WIDTH) - len(MARGIN), brief=height is not None, zone=zone)
    lines = [*view.title(), *_noted(note, view.width), [], *view.steps(), [], *view.bars(), [], *view.standing()]
    lines += [[], *view.counts(), [], *view.findings()]
    end = [[], *_controller(controller, view.width)] if controller is not None else []
    past = view.history()
    if height is not None:
        lines, end, past = _fitting(lines, end, past, height)
    if past:
        lines += [[], [("history", "bold")], *past]
    return [drawn([(MARGIN, ""), *line] if line else [], width, color=color) for line in [*lines, *end]]


def _fitting(
    lines: list[Line], end: list[Line], past: list[Line], height: int
) -> tuple[list[Line], list[Line], list[Line]]:
    """What is shown on so many lines: first history goes, then the space between the parts, then what comes last."""
    room = height - len(lines) - len(end)
    if room < 0:
        lines, end = [line for line in lines if line], [line for line in end if line]
        lines, end = lines[: max(height - len(end), 0)], end[:height]
    return lines, end, past[-(room - 2) :] if room > 2 else []


class _View:
    """The parts of a screen. ``brief`` is for screens that have an end: what isn't important has one line each."""

    def __init__(self, report: RolloutReport, width: int, *, brief: bool, zone: tzinfo | None) -> None:
        self.report = report
        self.width = width
        self._brief = brief
        self._zone = zone

    def title(self) -> Iterator[Line]:
        report = self.report
        style = PHASE_STYLES.get(report.phase, "bold cyan")
        until = report.since if report.over else report.at
        right = f"● {report.phase}  {lasting(until - report.started_at)}"
        left = f"{report.model}  {report.prior} → {report.version}"
        space = max(self.width - len(left) - len(right) - 1, 2)
        yield [(clean(left), "bold"), (" " * space, ""), (right, style)]
        began = f"{report.rollout}, started by {report.started_by} at {clock(report.started_at, self._zone)}"
        yield [(clean(began), "dim")]

    def steps(self) -> Iterator[Line]:
        """The way from the start to the end of the bake, where it stands marked; as many lines as it takes."""
        line: Line = []
        used = 0
        for number, (state, text) in enumerate(_way(self.report)):
            mark, style = _MARKS[state]
            size = len(mark) + 1 + len(text) + (3 if number else 0)
            if line and used + size > self.width:
                yield line
                line, used, size = [], 0, size - 3
            if line:
                line.append((" ─ ", "dim"))
            line += [(f"{mark} ", style), (text, style if state != "done" else "")]
            used += size
        yield line

    def bars(self) -> Iterator[Line]:
        report, evidence = self.report, self.report.evidence
        weight = report.weight / 100
        yield self._bar("weight", weight, "cyan", f"{report.weight} % of the requests to {report.version}")
        strength = evidence.share
        style = "bold red" if strength >= 1 else "yellow" if strength >= 0.5 else "green"
        said = f"{figure(evidence.e_value)} against it, {figure(evidence.threshold)} is enough"
        yield self._bar("evidence", strength, style, said)
        if (left := report.budget_left) is None:
            yield self._bar("budget", 0.0, "dim", "no attempts yet")
        else:
            style = "green" if left > 0.5 else "yellow" if left > 0.2 else "red"
            yield self._bar("budget", left, style, f"{percent(left)} of the error budget left")
        if (bake := report.bake) is not None:
            share = bake.done_s / bake.of_s if bake.of_s else 1.0
            yield self._bar("bake", share, "cyan", f"{lasting(bake.done_s)} of {lasting(bake.of_s)}")

    def standing(self) -> Iterator[Line]:
        """Why it is so, and what follows."""
        report = self.report
        yield from self._labelled("reason", report.reason, "bold" if report.phase in PHASE_STYLES else "")
        if report.rollback_took_s is not None:
            yield from self._labelled("took", f"{report.rollback_took_s:.2f} s until no gateway had {report.version}")
        if report.waiting_for:
            yield from self._labelled("waits for", report.waiting_for, "yellow" if report.phase == "Paused" else "")
        if report.can:
            yield from self._labelled("you can", ", ".join(report.can), "dim")

    def counts(self) -> Iterator[Line]:
        report, evidence = self.report, self.report.evidence
        yield [
            (" " * LABEL, ""),
            (f"{'first attempts':>{ATTEMPTS}}{'bad':>9}{'share':>9}{'slow':>9}{'invalid':>9}", "dim"),
        ]
        if not report.over:
            yield self._counted(f"{report.version} here", evidence.here)
        yield self._counted(report.version, evidence.canary)
        yield self._counted(report.prior, evidence.stable)
        if evidence.compared:
            agreed = f"{percent(evidence.agreed / evidence.compared)} of {evidence.compared:,} mirrored answers"
            yield from self._labelled("agreement", agreed)

    def findings(self) -> Iterator[Line]:
        """What was judged; what speaks against the canary in full, always."""
        findings = self.report.findings
        yield [("findings", "bold"), ("" if findings else "  none yet", "dim")]
        for finding in findings:
            mark, style = _FOUND[finding.kind]
            in_full = finding.kind == "bad" or not self._brief
            room = self.width - LABEL - 3
            lines = wrapped(finding.why, room) if in_full else [clean(finding.why)]
            for number, line in enumerate(lines):
                head = f"{mark} {finding.what}" if number == 0 else ""
                yield [(f" {head:{LABEL + 2}}", style), (line, "red" if finding.kind == "bad" else "")]

    def history(self) -> list[Line]:
        lines: list[Line] = []
        for passage in self.report.history:
            head = f" {clock(passage.since, self._zone)}  {_stretch(passage)}  "
            room = self.width - len(head)
            whole = [clean(passage.why)] if self._brief else wrapped(passage.why, room)
            lines.append([(head, ""), (whole[0], "dim")])
            lines += [[(" " * len(head), ""), (line, "dim")] for line in whole[1:]]
        return lines

    def _bar(self, label: str, share: float, style: str, said: str) -> Line:
        size = max(min(self.width - LABEL - 40, 40), 10)
        return [(f"{label:{LABEL}}", "dim"), *bar(share, size, style), (f"  {clean(said)}", "")]

    def _labelled(self, label: str, text: str, style: str = "") -> Iterator[Line]:
        for number, line in enumerate(wrapped(text, self.width - LABEL)):
            yield [(f"{label if number == 0 else '':{LABEL}}", "dim"), (line, style)]

    def _counted(self, label: str, counts: VariantCounts) -> Line:
        share = f"{percent(counts.bad / counts.attempts)}" if counts.attempts else ""
        attempts = f" {counts.attempts:,}"
        room = LABEL + ATTEMPTS - len(attempts)
        label = clean(label)
        label = label if len(label) <= room else f"{label[: room - 1]}…"
        return [
            (f"{label:{room}}", "dim"),
            (attempts, ""),
            (f"{counts.bad:>9,}", "red" if counts.bad else ""),
            (f"{share:>9}", "dim"),
            (f"{counts.slow:>9,}{counts.invalid:>9,}", ""),
        ]


def _way(report: RolloutReport) -> Iterator[tuple[str, str]]:
    """All that has to be gone through, and how each part stands."""
    was = {passage.phase for passage in report.history} | {Phase(report.phase)}
    promoted = bool(was & _PROMOTED)
    baked = bool(was & {Phase.BAKING, Phase.SUCCEEDED})
    now = _where(report)
    begun = report.step >= 0 or promoted
    yield ("done" if begun else now if report.step < 0 else "to do"), "start"
    for number, step in enumerate(report.steps):
        if number < report.step or (promoted and number == report.step):
            state = "done"
        elif promoted:
            state = "left out"
        else:
            state = now if number == report.step else "to do"
        yield state, _named(step)
    if promoted and not baked:
        yield now, "promotion"
    yield ("done" if report.phase == Phase.SUCCEEDED.value else now if baked else "to do"), "bake"


def _where(report: RolloutReport) -> str:
    """What the mark of the part says that it is in, or ended in."""
    if report.phase in _WENT_BACK:
        return "ended"
    return "held" if report.phase == Phase.PAUSED.value else "now"


def _named(step: StepReport) -> str:
    if step.set_weight is not None:
        return f"{step.set_weight} %"
    duration = None if step.pause is None else step.pause.duration
    return "person" if duration is None else f"wait {duration}"


def _stretch(passage: Passage) -> str:
    return f"{passage.phase.value:<11} {passage.weight:>3} %  {lasting(passage.until - passage.since):>7}"


def _noted(note: str, width: int) -> Iterator[Line]:
    if note:
        yield from ([(line, "reverse yellow")] for line in wrapped(note, width))


def _controller(controller: ControllerReport, width: int) -> Iterator[Line]:
    if controller.state == "writing":
        yield [(f"controller writing, event {controller.seq}", "dim")]
        return
    said = f"controller: {controller.state.replace('_', ' ')}" + (f": {controller.detail}" if controller.detail else "")
    yield from ([(line, "yellow")] for line in wrapped(said, width))
