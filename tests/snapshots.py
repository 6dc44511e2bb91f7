"""Examples of what the live page is told: calm, a canary that grows, one that was taken back, an outage.

They are put together as a gateway puts them together, from the same structs, so a page that can show these can show
what is true.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from serving.live.snapshot import (
    Admin,
    BreakerView,
    FallbackUse,
    Gateways,
    Holdfast,
    LiveEvent,
    ModelView,
    ReplicaView,
    Series,
    ShadowUse,
    Snapshot,
    VersionView,
    Waiting,
)
from serving.live.verdict import judge
from serving.rollout.report import ControllerReport, RolloutReport, report
from serving.rollout.spec import RolloutSpec
from serving.rollout.versions import rolled_back_because
from tests.rollouts import at_first_weight, rollout_spec, shut_out

NOW: Final = 1_764_392_000.0
PORTS: Final = (8101, 8102)
SECONDS: Final = 300


def series(
    rate: float,
    *,
    errors: float = 0.0,
    degraded: float = 0.0,
    shed: float = 0.0,
    since_s: int = 60,
    weight: float = 0.0,
    now: float = NOW,
) -> Series:
    """Five minutes that end now, a little uneven; what is wrong, and the weight, began ``since_s`` ago."""
    waves = [1 + 0.1 * math.sin(at / 7) + 0.05 * math.sin(at * 1.7) for at in range(SECONDS)]
    wrong = [at >= SECONDS - since_s for at in range(SECONDS)]
    bad = errors + degraded + shed
    return Series(
        t=[int(now) - SECONDS + at for at in range(SECONDS)],
        ok=[round(max(rate * wave - bad * on, 0.0), 3) for wave, on in zip(waves, wrong, strict=True)],
        errors=[round(errors * wave * on, 3) for wave, on in zip(waves, wrong, strict=True)],
        degraded=[round(degraded * wave * on, 3) for wave, on in zip(waves, wrong, strict=True)],
        shed=[round(shed * wave * on, 3) for wave, on in zip(waves, wrong, strict=True)],
        p50_ms=[_ms(3 * wave, rate=rate, slow=on and bad > 0) for wave, on in zip(waves, wrong, strict=True)],
        p99_ms=[_ms(12 * wave, rate=rate, slow=on and bad > 0) for wave, on in zip(waves, wrong, strict=True)],
        weight=[weight * on for on in wrong],
    )


def _ms(usual: float, *, rate: float, slow: bool) -> float | None:
    return round(usual * (5 if slow else 1), 3) if rate else None


def replicas(*names: str) -> tuple[ReplicaView, ...]:
    return tuple(
        ReplicaView(id=name, live=True, pid=4000 + number, outstanding=number % 2) for number, name in enumerate(names)
    )


def version(name: str, **changes: object) -> VersionView:
    """A stable version that is well, but for what is told otherwise."""
    well = VersionView(
        version=name,
        role="stable",
        weight=1.0,
        digest="sha256:" + (name * 64)[:64],
        ready=True,
        breaker=BreakerView(
            gateways={str(port): "closed" for port in PORTS}, why="it hasn't opened since it was made", since=NOW - 3600
        ),
        replicas=replicas(f"{name}-k3s9x0", f"{name}-p1f7m2"),
        inflight_batches=1,
        attempts={"ok": 45_120},
    )
    return msgspec.structs.replace(well, **changes)


def unserved(name: str, reason: str) -> VersionView:
    return VersionView(version=name, role="unavailable", reason=reason)


def model(name: str = "digits", *, rate: float = 150.0, **changes: object) -> ModelView:
    """A model that is well, but for what is told otherwise."""
    well = ModelView(
        name=name,
        stable="v2",
        rate=rate,
        ok=rate,
        p50_ms=3.1,
        p99_ms=12.4,
        admission=Waiting(limit=40, inflight=3, waiting=0),
        fallbacks=(FallbackUse("version", "version v1"), FallbackUse("cache", "cache")),
        shadows=(ShadowUse(f"{name}-lite@v1", 0.1, compared=4_512, agreed=4_470),),
        versions=(version("v1", role="standby", weight=0.0, attempts={"ok": 12}), version("v2")),
        series=series(rate),
    )
    return msgspec.structs.replace(well, **changes)


def snapshot(*models: ModelView, **changes: object) -> Snapshot:
    """All is well around these models, but for what is told otherwise."""
    well = Snapshot(
        time=NOW,
        holdfast=Holdfast("0.1.0", 4711, 86_412.5),
        gateways=Gateways(seen=2, expected=2, accepting=2, ports=PORTS, generations=(7, 7)),
        controller=ControllerReport("writing", pid=4700, seq=128, log="/var/lib/holdfast/events.db"),
        admin=Admin(open=True, token=False),
        models=models,
        events=(
            LiveEvent(NOW - 3000, "version", "digits", "digits@v2 answers by default"),
            LiveEvent(NOW - 3500, "gateway", "", "a gateway came: port 8102"),
        ),
    )
    told = msgspec.structs.replace(well, **changes)
    return msgspec.structs.replace(told, verdict=judge(told))


def calm() -> Snapshot:
    """Two models, nothing to see."""
    return snapshot(model(), model("orientation", rate=12.5, shadows=(), fallbacks=()))


def canary() -> Snapshot:
    """``v3`` gets 5 % of the requests for digits, with its first evidence in."""
    run = at_first_weight(rollout_of("v3"))
    run.window(canary=60, stable=1140, bad=1, stable_bad=2, seconds=20.0, compared=60, agreed=59)
    versions = (
        version("v1", role="standby", weight=0.0, attempts={"ok": 12}),
        version("v2", weight=0.95),
        version("v3", role="canary", weight=0.05, attempts={"ok": 59, "model_failed": 1}),
    )
    digits = model(versions=versions, rollout=moved(report(run.state)), series=series(150.0, weight=0.05, since_s=20))
    event = LiveEvent(NOW - 20, "rollout", "digits", "digits-1: v3 gets 5 % of the requests")
    return snapshot(
        digits, model("orientation", rate=12.5, shadows=(), fallbacks=()), events=(event, *snapshot().events)
    )


def taken_back() -> Snapshot:
    """The canary failed a third of its calls, and no gateway has it any more."""
    run = shut_out(rollout_of("v3"))
    told = moved(report(run.state))
    digits = model(
        rollout=told,
        series=series(150.0, degraded=2.5, since_s=9, weight=0.05),
        versions=(
            version("v1", role="standby", weight=0.0, attempts={"ok": 12}),
            version("v2"),
            unserved("v3", rolled_back_because(told.reason)),
        ),
    )
    event = LiveEvent(NOW - 2, "rollout", "digits", f"digits-1: v3 is taken back: {told.reason}")
    return snapshot(
        digits,
        model("orientation", rate=12.5, shadows=(), fallbacks=()),
        rolled_back={"digits@v3": told.reason},
        events=(event, *snapshot().events),
    )


def outage() -> Snapshot:
    """The control plane is silent, one of two gateways is gone, and the stable version of digits fails."""
    why = "12 of 20 calls failed within 10 s"
    failing = version(
        "v2",
        breaker=BreakerView(
            state="open", gateways={"8101": "open"}, why=why, since=NOW - 8, retry_at=NOW + 1.5, opened=3
        ),
        replicas=(
            ReplicaView(id="v2-k3s9x0", live=True, ejected=True, why="9 of 12 calls were bad", pid=4001),
            ReplicaView(id="v2-p1f7m2", live=False, pid=4002),
        ),
        waiting=14,
        inflight_batches=0,
        attempts={"ok": 45_120, "model_failed": 212, "replica_lost": 4},
    )
    digits = model(
        ok=12.0,
        errors=18.0,
        degraded=96.0,
        shed=24.0,
        p50_ms=9.5,
        p99_ms=250.0,
        degraded_by_reason={"circuit_open": 80.0, "model_failed": 16.0},
        errors_by_reason={"no_answer": 17.5, "deadline_exceeded": 0.5},
        admission=Waiting(limit=12, inflight=12, waiting=31),
        fallbacks=(FallbackUse("version", "version v1", 812, 4), FallbackUse("cache", "cache", 66, 128)),
        shadows=(ShadowUse("digits-lite@v1", 0.1, compared=4_512, agreed=4_470, silent=True, dropped=80),),
        versions=(version("v1", role="standby", weight=0.0, attempts={"ok": 824}), failing),
        series=series(150.0, errors=18.0, degraded=96.0, shed=24.0, since_s=25),
    )
    gone = model("orientation", rate=0.0, shadows=(), fallbacks=(), ok=0.0, p50_ms=None, p99_ms=None)
    gone = msgspec.structs.replace(gone, stable=None, versions=(unserved("v2", "model.onnx: wrong digest"),))
    return snapshot(
        digits,
        gone,
        gateways=Gateways(seen=1, expected=2, accepting=1, ports=(8101,), generations=(7,)),
        controller=ControllerReport("silent", "no answer within 0.5 s", seq=128, log="/var/lib/holdfast/events.db"),
        events=(
            LiveEvent(NOW - 8, "breaker", "digits", f"digits@v2: breaker open at 8101: {why}"),
            LiveEvent(NOW - 12, "controller", "", "the control plane is silent: no answer within 0.5 s"),
            LiveEvent(NOW - 14, "gateway", "", "a gateway went: port 8102"),
            *snapshot().events,
        ),
    )


EXAMPLES: Final = {"calm": calm, "canary": canary, "taken_back": taken_back, "outage": outage}


def rollout_of(canary_: str) -> RolloutSpec:
    return rollout_spec(version=canary_, **{"from": "v2"})


def moved(told: RolloutReport, now: float = NOW) -> RolloutReport:
    """The same rollout, as if it had been looked at now."""
    by = now - told.at
    return msgspec.structs.replace(
        told,
        at=told.at + by,
        since=told.since + by,
        started_at=told.started_at + by,
        history=tuple(msgspec.structs.replace(p, since=p.since + by, until=p.until + by) for p in told.history),
    )
