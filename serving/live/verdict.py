"""Is it fine, and if not, what is wrong: a snapshot judged in plain words, the gravest first. Pure.

What callers feel comes first, then what stands in for what fails, then what would be missing at the next failure. A
version that was taken back is no trouble: that is how it should be. Not here: alerts, which look at longer times
(deploy/).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from serving.live.snapshot import ModelView, Snapshot, Verdict, VersionView

BAD_ERRORS: Final = 0.05
"""Share of a model's requests that end in an error from which on it's bad; below, it is degraded."""
ERRORS_MIN_PER_S: Final = 0.2
"""Fewer errors than this are nothing to tell of: two in ten seconds."""
SHARE_MIN: Final = 0.01
"""Shed and degraded requests are told of from this share on."""

BAD: Final = "bad"
DEGRADED: Final = "degraded"
_WRITING: Final = ("writing", "starting")
_ON_PURPOSE: Final = ("rolled back", "replaced by ", "unloaded on request", "ended with ")
"""How the control plane's reasons begin for what is meant to be so."""


class _Reason(NamedTuple):
    """``rank`` orders: the smaller the graver."""

    rank: int
    state: str
    text: str


def judge(snapshot: Snapshot) -> Verdict:
    """The verdict on all of it but the verdict."""
    reasons = sorted([*_of_gateways(snapshot), *_of_models(snapshot), *_of_control(snapshot)])
    state = "fine" if not reasons else BAD if any(one.state == BAD for one in reasons) else DEGRADED
    return Verdict(state, tuple(one.text for one in reasons))  # type: ignore[arg-type]  # it is one of the three


def _of_gateways(snapshot: Snapshot) -> Iterator[_Reason]:
    gateways = snapshot.gateways
    if not gateways.accepting:
        yield _Reason(0, BAD, f"no gateway accepts requests ({gateways.seen} of {gateways.expected} answer)")
    elif gateways.accepting < gateways.expected:
        missing = gateways.expected - gateways.accepting
        yield _Reason(50, DEGRADED, f"{missing} of {gateways.expected} gateways {_is(missing)} missing")


def _of_models(snapshot: Snapshot) -> Iterator[_Reason]:
    for model in snapshot.models:
        yield from _of_callers(model)
        yield from _of_answerer(model, snapshot)
        for version in model.versions:
            yield from _of_version(model, version)
        for shadow in model.shadows:
            if shadow.silent:
                yield _Reason(70, DEGRADED, f"{model.name}: the shadow {shadow.name} answers nothing")
        yield from _of_rollout(model)


def _of_callers(model: ModelView) -> Iterator[_Reason]:
    """What those who ask meet."""
    asked = model.rate - model.other
    if asked <= 0:
        return
    if model.errors >= ERRORS_MIN_PER_S:
        share = model.errors / asked
        mostly = max(model.errors_by_reason, key=lambda name: model.errors_by_reason[name], default="")
        text = f"{model.name}: {_percent(share)} of the requests get an error{f' (mostly {mostly})' if mostly else ''}"
        yield _Reason(10, BAD, text) if share >= BAD_ERRORS else _Reason(20, DEGRADED, text)
    if model.shed / asked >= SHARE_MIN:
        full = f"{model.admission.inflight} of {model.admission.limit} places taken, {model.admission.waiting} wait"
        yield _Reason(25, DEGRADED, f"{model.name}: {_percent(model.shed / asked)} of the requests are shed ({full})")
    if model.degraded / asked >= SHARE_MIN:
        why = max(model.degraded_by_reason, key=lambda name: model.degraded_by_reason[name], default="")
        text = f"{model.name}: {_percent(model.degraded / asked)} of the answers are degraded"
        yield _Reason(30, DEGRADED, f"{text}{f' (mostly {why})' if why else ''}")


def _of_answerer(model: ModelView, snapshot: Snapshot) -> Iterator[_Reason]:
    """Whether there is anyone who answers by default."""
    stable = next((version for version in model.versions if version.role == "stable"), None)
    if stable is None:
        reasons = "; ".join(f"{version.version}: {version.reason}" for version in model.versions if version.reason)
        stands_in = any(use.answered for use in model.fallbacks)
        text = f"{model.name}: no version is served{f' ({reasons})' if reasons else ''}"
        yield _Reason(40, DEGRADED, f"{text}; fallbacks answer") if stands_in else _Reason(5, BAD, text)
    elif not stable.ready:
        live = sum(replica.live for replica in stable.replicas)
        what = "isn't ready in every gateway" if live else f"none of its {len(stable.replicas)} replicas can take work"
        yield _Reason(15, DEGRADED if model.fallbacks else BAD, f"{model.name}@{stable.version}: {what}")
    for version in model.versions:
        meant = on_purpose(version.reason) or f"{model.name}@{version.version}" in snapshot.rolled_back
        if stable is not None and version.role == "unavailable" and not meant:
            yield _Reason(58, DEGRADED, f"{model.name}@{version.version} isn't served: {version.reason}")


def _of_version(model: ModelView, version: VersionView) -> Iterator[_Reason]:
    name = f"{model.name}@{version.version}"
    breaker = version.breaker
    if breaker.state != "closed":
        where = [port for port, state in breaker.gateways.items() if state == breaker.state]
        of = f"in {len(where)} of {len(breaker.gateways)} gateways"
        rank = 35 if version.role == "stable" else 45
        yield _Reason(rank, DEGRADED, f"{name}: breaker {breaker.state} {of} ({breaker.why})")
    ejected = [replica for replica in version.replicas if replica.ejected]
    if ejected:
        whys = ejected[0].why
        text = f"{name}: {len(ejected)} of {len(version.replicas)} replicas {_is(len(ejected))} left out ({whys})"
        yield _Reason(55, DEGRADED, text)
    dead = [replica for replica in version.replicas if not replica.live]
    if version.role != "unavailable" and version.ready and dead:
        yield _Reason(56, DEGRADED, f"{name}: {len(dead)} of {len(version.replicas)} replicas can't be reached")
    missing = version.wanted - len(version.replicas)
    if version.role != "unavailable" and version.ready and missing > 0:
        yield _Reason(57, DEGRADED, f"{name}: {missing} of {version.wanted} replicas {_is(missing)} missing")
    if version.role in ("standby", "canary") and not version.ready:
        yield _Reason(60, DEGRADED, f"{name} ({version.role}): no replica can take work")


def _of_rollout(model: ModelView) -> Iterator[_Reason]:
    rollout = model.rollout
    if rollout is not None and rollout.phase == "Paused" and any(one.kind != "good" for one in rollout.findings):
        text = f"{model.name}: {rollout.rollout} ({rollout.version}) is paused: {rollout.reason}"
        yield _Reason(65, DEGRADED, text)


def _of_control(snapshot: Snapshot) -> Iterator[_Reason]:
    controller = snapshot.controller
    if controller.state in _WRITING:
        return
    detail = f" ({controller.detail})" if controller.detail else ""
    if controller.state == "silent":
        yield _Reason(
            52, DEGRADED, f"the control plane is silent{detail}: nothing can be changed, rollouts stand still"
        )
    else:
        yield _Reason(53, DEGRADED, f"the rollout controller is {controller.state}{detail}: rollouts stand still")


def on_purpose(reason: str) -> bool:
    """Whether a version isn't served because somebody, or the end of a rollout, wanted it so."""
    return not reason or reason.startswith(_ON_PURPOSE) or reason.endswith(" was aborted")


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _percent(share: float) -> str:
    """With two digits, and never rounded to nothing or everything."""
    percent = 100 * share
    if 99 < percent < 100:
        return "over 99 %"
    return f"{percent:.2g} %" if percent < 99 else f"{percent:.0f} %"
