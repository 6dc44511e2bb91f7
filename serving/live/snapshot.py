"""How all of a node stands at one moment: the body of ``GET /v2/holdfast/overview``. Pure.

The field names are part of the API (docs/api.md). Moments are in seconds since the Unix epoch, rates in requests per
second, of the last ten seconds. Not here: how it is put together (``serving.live.merge``), what is made of it
(``serving.live.verdict``, ``serving.live.events``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from serving.rollout.report import ControllerReport, RolloutReport

VerdictState = Literal["fine", "degraded", "bad"]
BreakerState = Literal["closed", "half-open", "open"]
Role = Literal["stable", "canary", "standby", "unavailable"]
EventKind = Literal["breaker", "rollout", "version", "gateway", "controller", "incident"]

EVENTS_MAX = 100


class Holdfast(msgspec.Struct, frozen=True):
    """The gateway that made the snapshot."""

    version: str
    pid: int
    uptime_s: float


class Verdict(msgspec.Struct, frozen=True):
    """Is it fine, and if not, what is wrong: one line each, the gravest first."""

    state: VerdictState = "fine"
    reasons: tuple[str, ...] = ()


class Gateways(msgspec.Struct, frozen=True, kw_only=True):
    """``seen``: those that answered. ``ports`` and ``generations`` (of their routing tables) go together."""

    seen: int
    expected: int
    accepting: int
    ports: tuple[int, ...]
    generations: tuple[int, ...]


class Admin(msgspec.Struct, frozen=True):
    """Whether the system may be changed over HTTP at all, and whether that takes a token."""

    open: bool
    token: bool


class Waiting(msgspec.Struct, frozen=True):
    """A model's admission, of all gateways together."""

    limit: int = 0
    inflight: int = 0
    waiting: int = 0


class FallbackUse(msgspec.Struct, frozen=True):
    """An entry of a model's fallback chain, and how often it was of use since the gateways began."""

    type: str
    name: str
    answered: int = 0
    unusable: int = 0


class ShadowUse(msgspec.Struct, frozen=True):
    """Requests since the gateways began. ``silent``: its agreement says nothing, because it answers nothing."""

    name: str
    share: float
    compared: int = 0
    agreed: int = 0
    silent: bool = False
    dropped: int = 0


class BreakerView(msgspec.Struct, frozen=True, kw_only=True):
    """A version's breakers: the worst one, and the state of each gateway's by port. ``why`` and ``since`` are its."""

    state: BreakerState = "closed"
    gateways: dict[str, BreakerState] = {}
    why: str = ""
    since: float = 0.0
    retry_at: float | None = None
    opened: int = 0
    """How often any of them has opened."""


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """``live``: a gateway has a channel to it. ``ejected``: a gateway leaves it out, and why. ``ip`` is its node's."""

    id: str
    live: bool
    ejected: bool = False
    why: str = ""
    pid: int = 0
    ip: str = ""
    outstanding: int = 0


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """``ready``: it can take work in every gateway that has it; ``reason`` says why it is unavailable.

    ``weight`` is its share of the requests that name no version, from 0 to 1. ``attempts`` are counted since the
    gateways began, by what they ended in. ``wanted`` replicas it should have, at least; 0 if that isn't known.
    """

    version: str
    role: Role
    weight: float = 0.0
    digest: str = ""
    ready: bool = False
    reason: str = ""
    breaker: BreakerView = BreakerView()
    replicas: tuple[ReplicaView, ...] = ()
    wanted: int = 0
    waiting: int = 0
    inflight_batches: int = 0
    attempts: dict[str, int] = {}
    golden_failed: int = 0


class Series(msgspec.Struct, frozen=True):
    """One value a second, all lists equally long, the oldest first; quantiles are null where nothing was asked."""

    t: list[int] = []
    ok: list[float] = []
    errors: list[float] = []
    degraded: list[float] = []
    shed: list[float] = []
    p50_ms: list[float | None] = []
    p99_ms: list[float | None] = []
    weight: list[float] = []


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """``rate`` has everything that ended, also what callers got wrong or gave up (``other``).

    ``errors`` are answers that callers didn't get and should have. A quantile is null if nothing was asked.
    """

    name: str
    stable: str | None
    rate: float = 0.0
    ok: float = 0.0
    errors: float = 0.0
    degraded: float = 0.0
    shed: float = 0.0
    other: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    degraded_by_reason: dict[str, float] = {}
    errors_by_reason: dict[str, float] = {}
    admission: Waiting = Waiting()
    fallbacks: tuple[FallbackUse, ...] = ()
    shadows: tuple[ShadowUse, ...] = ()
    versions: tuple[VersionView, ...] = ()
    rollout: RolloutReport | None = None
    series: Series = Series()


class LiveEvent(msgspec.Struct, frozen=True):
    """Something that happened, in a line; ``model`` is empty if it concerns none."""

    time: float
    kind: EventKind
    model: str
    text: str


class IncidentKept(msgspec.Struct, frozen=True, kw_only=True):
    """A request that went wrong; names as in ``serving.incidents.incident``."""

    id: int
    time: float
    model: str
    version: str
    outcome: str
    failure: str
    answered_by: str = ""


class Incidents(msgspec.Struct, frozen=True):
    """What was kept of requests that went wrong."""

    kept: int = 0
    newest: tuple[IncidentKept, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; ``events`` the newest first. ``rolled_back`` says why of versions as ``model@version``."""

    time: float
    holdfast: Holdfast
    verdict: Verdict = Verdict()
    gateways: Gateways
    controller: ControllerReport
    admin: Admin
    models: tuple[ModelView, ...] = ()
    rolled_back: dict[str, str] = {}
    events: tuple[LiveEvent, ...] = ()
    incidents: Incidents = Incidents()
