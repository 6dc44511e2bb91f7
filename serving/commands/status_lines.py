"""All of a node on one screen: is it fine, and if not, what is wrong. Pure.

What is well takes one line for each model; what isn't is told in full. Not here: asking for it, and the exit code
(``serving.commands.status``); one rollout in all its figures (``serving.commands.screen``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import tzinfo
from typing import Final

from serving.commands.screen import PHASE_STYLES
from serving.commands.terminal import Line, clean, clock, figure, lasting, percent, wrapped
from serving.live.snapshot import BreakerView, ModelView, ReplicaView, Snapshot, VersionView
from serving.rollout.report import RolloutReport
from serving.rollout.state import Phase

MAX_WIDTH: Final = 100
EVENTS: Final = 6
LABEL: Final = 12
NAME: Final = 18
REASONS: Final = 3
MANY: Final = 8
"""More models than that, and those that are well have one line each."""

_STYLES: Final = {"fine": "bold green", "degraded": "bold yellow", "bad": "bold red"}
_BREAKERS: Final = {"closed": "green", "half-open": "yellow", "open": "red"}
_ROLES: Final = ("stable", "canary", "standby", "unavailable")
_WELL: Final = frozenset({"writing", "standby"})


def status_lines(snapshot: Snapshot, width: int, *, zone: tzinfo | None = None) -> Iterator[Line]:
    """The lines, each at most ``width`` wide. Times of day are local ones, or of ``zone``."""
    yield from _verdict(snapshot, width, zone)
    yield []
    yield from _parts(snapshot, width)
    yield []
    yield from _models(snapshot, width)
    yield from _rolled_back(snapshot, width)
    if snapshot.events:
        yield []
        yield [("latest", "bold")]
    for event in snapshot.events[:EVENTS]:
        yield from _after([(f"  {clock(event.time, zone)}  ", "dim")], event.text, width)


def _verdict(snapshot: Snapshot, width: int, zone: tzinfo | None) -> Iterator[Line]:
    verdict, holdfast = snapshot.verdict, snapshot.holdfast
    style = _STYLES[verdict.state]
    right = f"Holdfast {clean(holdfast.version)}, up {lasting(holdfast.uptime_s)}, {clock(snapshot.time, zone)}"
    space = max(width - len(right) - len(verdict.state) - 2, 2)
    yield [("● ", style), (verdict.state, style), (" " * space, ""), (right, "dim")]
    for reason in verdict.reasons:
        yield from _after([("  ✗ ", style)], reason, width)


def _parts(snapshot: Snapshot, width: int) -> Iterator[Line]:
    """What is there once in a node."""
    seen = snapshot.gateways
    ports = ", ".join(map(str, seen.ports))
    tables = sorted(set(seen.generations))
    text = f"{seen.accepting} of {seen.expected} take requests" + (f" ({ports})" if ports else "")
    text += f", table {tables[0]}" if len(tables) == 1 else f", tables {', '.join(map(str, tables))}" if tables else ""
    well = seen.accepting >= seen.expected and len(tables) <= 1
    yield from _labelled("gateways", text, width, "" if well else "yellow")
    controller = snapshot.controller
    text = controller.state.replace("_", " ") + (f": {controller.detail}" if controller.detail else "")
    text += f"; event {controller.seq} in {controller.log}" if controller.log else ""
    yield from _labelled("controller", text, width, "" if controller.state in _WELL else "yellow")
    admin = snapshot.admin
    text = "over HTTP with the token" if admin.token else "over HTTP, from this machine"
    yield from _labelled("changes", text if admin.open else "switched off over HTTP", width, "")
    if snapshot.incidents.kept:
        yield from _labelled("incidents", f"{snapshot.incidents.kept} requests that went wrong are kept", width, "")


def _models(snapshot: Snapshot, width: int) -> Iterator[Line]:
    if not snapshot.models:
        yield [("no models are served", "yellow")]
        return
    head = f"{'req/s':>8}{'p50':>9}{'p99':>9}{'errors':>9}{'degraded':>9}{'shed':>9}{'waiting':>8}"
    yield [(f"{'model':{NAME}}", "bold"), (head, "dim")]
    brief = len(snapshot.models) > MANY
    nodes = {
        replica.ip
        for model in snapshot.models
        for version in model.versions
        for replica in version.replicas
        if replica.ip
    }
    for model in snapshot.models:
        yield _row(model)
        for line in _below(model, snapshot.time, brief=brief, many_nodes=len(nodes) > 1):
            yield from _wrapped_line(line, width)


def _row(model: ModelView) -> Line:
    name = clean(model.name)
    name = f"{name[: NAME - 2]}…" if len(name) > NAME - 1 else name
    return [
        (f"{name:{NAME}}", "bold"),
        (f"{figure(round(model.rate, 1)):>8}{_ms(model.p50_ms):>9}{_ms(model.p99_ms):>9}", ""),
        _share(model.errors, model.rate, "red"),
        _share(model.degraded, model.rate, "yellow"),
        _share(model.shed, model.rate, "yellow"),
        (f"{model.admission.waiting or '-':>8}", ""),
    ]


def _below(model: ModelView, now: float, *, brief: bool, many_nodes: bool) -> Iterator[tuple[str, str, str]]:
    """What else is to be said of a model: a mark with its style, and a text. ``brief``: only what isn't well."""
    counted = _placed if many_nodes else _counted
    for what, reasons in (("errors", model.errors_by_reason), ("degraded", model.degraded_by_reason)):
        if reasons:
            yield "✗" if what == "errors" else "!", "red" if what == "errors" else "yellow", _because(what, reasons)
    versions = sorted(model.versions, key=lambda version: _ROLES.index(version.role))
    fine = [version for version in versions if _is_fine(version)]
    for version in versions:
        if version not in fine and version.version != _taken_back(model):  # the rollout's own line says why
            yield from _ills(version, now)
    if fine and not brief:
        yield "✓", "green", ", ".join(_named(version) + counted(version) for version in fine)
    for shadow in model.shadows:
        if shadow.silent:
            yield "!", "yellow", f"shadow {shadow.name} answers nothing: its agreement means nothing"
    if model.rollout is not None and (not model.rollout.over or _taken_back(model)):
        yield "▶", PHASE_STYLES.get(model.rollout.phase, "bold cyan"), _rollout(model.rollout)


def _taken_back(model: ModelView) -> str | None:
    """The version that the model's last rollout took back."""
    one = model.rollout
    return one.version if one is not None and one.phase == Phase.ROLLED_BACK.value else None


def _is_fine(version: VersionView) -> bool:
    whole = all(replica.live and not replica.ejected for replica in version.replicas)
    return version.ready and version.breaker.state == "closed" and whole and version.role != "unavailable"


def _ills(version: VersionView, now: float) -> Iterator[tuple[str, str, str]]:
    if not version.ready or version.role == "unavailable":
        yield "✗", "red", f"{_named(version)}: {version.reason or 'no replica can take work'}"
    if version.breaker.state != "closed":
        yield "✗", _BREAKERS[version.breaker.state], f"{_named(version)}: {_breaker(version.breaker, now)}"
    ill = [replica for replica in version.replicas if replica.ejected or not replica.live]
    if ill:
        each = ", ".join(map(_replica, ill[:REASONS])) + (" ..." if len(ill) > REASONS else "")
        yield "!", "yellow", f"{_named(version)}: {len(ill)} of {len(version.replicas)} replicas out: {each}"


def _named(version: VersionView) -> str:
    weight = f" {percent(version.weight)}" if version.role in ("stable", "canary") else ""
    return f"{version.version} {version.role}{weight}"


def _counted(version: VersionView) -> str:
    return f" ({len(version.replicas)} replicas)" if len(version.replicas) > 1 else ""


def _placed(version: VersionView) -> str:
    """As ``_counted``, with the nodes."""
    if not version.replicas:
        return ""
    nodes = Counter(replica.ip or "?" for replica in version.replicas)
    each = ", ".join(ip if count == 1 else f"{count} on {ip}" for ip, count in sorted(nodes.items()))
    return f" (1 replica on {each})" if len(version.replicas) == 1 else f" ({len(version.replicas)} replicas: {each})"


def _breaker(breaker: BreakerView, now: float) -> str:
    states = list(breaker.gateways.values())
    here = f" in {states.count(breaker.state)} of {len(states)} gateways" if states else ""
    since = f" for {lasting(now - breaker.since)}" if breaker.since else ""
    again = "" if breaker.retry_at is None else f", tries again in {lasting(breaker.retry_at - now)}"
    return f"breaker {breaker.state}{here}{since}{f': {breaker.why}' if breaker.why else ''}{again}"


def _replica(replica: ReplicaView) -> str:
    state = "ejected" if replica.ejected else "not connected"
    return f"{replica.id} {state}" + (f" ({replica.why})" if replica.why else "")


def _rollout(one: RolloutReport) -> str:
    evidence = f"evidence {figure(one.evidence.e_value)} of {figure(one.evidence.threshold)}"
    step = f"step {max(one.step + 1, 0)}/{len(one.steps)}"
    text = f"{one.rollout} {one.prior} → {one.version}: {one.phase}, {step}, {one.weight} %, {evidence}"
    return text + (f": {one.reason}" if one.reason else "") + (f"; waits for {one.waiting_for}" * bool(one.waiting_for))


def _because(what: str, reasons: Mapping[str, float]) -> str:
    most = sorted(reasons.items(), key=lambda item: -item[1])
    each = ", ".join(f"{figure(round(rate, 2))}/s {reason}" for reason, rate in most[:REASONS])
    return f"{what}: {each}" + (" ..." if len(most) > REASONS else "")


def _rolled_back(snapshot: Snapshot, width: int) -> Iterator[Line]:
    shown = {f"{model.name}@{_taken_back(model)}" for model in snapshot.models}
    for name, reason in sorted(snapshot.rolled_back.items()):
        if name not in shown:
            yield from _after([("  ", "")], f"{name} was rolled back: {reason}", width)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{figure(round(value, 1))} ms"


def _share(part: float, whole: float, style: str) -> tuple[str, str]:
    if part <= 0:
        return f"{'-':>9}", "dim"
    return f"{percent(min(part / whole, 1.0)) if whole > 0 else figure(part):>9}", style


def _labelled(label: str, text: str, width: int, style: str) -> Iterator[Line]:
    for number, line in enumerate(wrapped(text, width - LABEL)):
        yield [(f"{label if number == 0 else '':{LABEL}}", "dim"), (line, style)]


def _wrapped_line(line: tuple[str, str, str], width: int) -> Iterator[Line]:
    mark, style, text = line
    yield from _after([(f"  {mark} ", style)], text, width)


def _after(head: Line, text: str, width: int) -> Iterator[Line]:
    """The text behind the head, its further lines as far in."""
    used = sum(len(part) for part, _ in head)
    for number, line in enumerate(wrapped(text, width - used)):
        yield [*(head if number == 0 else [(" " * used, "")]), (line, "")]
