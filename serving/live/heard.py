"""What a gateway says of itself in ``GET /v2/holdfast/status``, as far as it is told on. Pure.

Not here: what else it says (``serving.status``), adding gateways up (``serving.live.merge``).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from serving.live.series import SeriesPage


class GatewayHeard(msgspec.Struct, frozen=True):
    """``system`` is the mark of the Holdfast that it is one of."""

    pid: int
    time: float
    accepting: bool
    ready: bool
    routing_table: int
    system: str = ""


class CanaryHeard(msgspec.Struct, frozen=True):
    version: str
    weight: float
    ended: bool
    fault: str | None = None


class AdmissionHeard(msgspec.Struct, frozen=True):
    limit: int
    inflight: int
    waiting: dict[str, int] = {}


class FallbackHeard(msgspec.Struct, frozen=True):
    type: str
    name: str
    answered: int
    unusable: int


class ShadowHeard(msgspec.Struct, frozen=True):
    shadow: str
    share: float
    silent: bool
    compared_requests: int = 0
    agreed_requests: int = 0
    dropped: dict[str, int] = {}


class BreakerHeard(msgspec.Struct, frozen=True):
    state: Literal["closed", "open", "half_open"]
    since: float
    why: str
    opened: int
    retry_after_s: float


class ReplicaHeard(msgspec.Struct, frozen=True):
    id: str
    live: bool
    outstanding: int
    pid: int = 0
    ejected: bool = False
    why: str = ""


class VersionHeard(msgspec.Struct, frozen=True):
    digest: str
    ready: bool
    breaker: BreakerHeard
    attempts: dict[str, int] = {}
    waiting: int = 0
    inflight_batches: int = 0
    replicas: tuple[ReplicaHeard, ...] = ()


class ModelHeard(msgspec.Struct, frozen=True):
    stable: str | None = None
    canary: CanaryHeard | None = None
    admission: AdmissionHeard | None = None
    fallback: tuple[FallbackHeard, ...] = ()
    shadows: tuple[ShadowHeard, ...] = ()
    versions: dict[str, VersionHeard] = {}


class StatusHeard(msgspec.Struct, frozen=True):
    gateway: GatewayHeard
    models: dict[str, ModelHeard] = {}
    unavailable: dict[str, str] = {}
    coming: tuple[str, ...] = ()


class Heard(NamedTuple):
    """One gateway: where it listens, how it stands, and its series since it told last."""

    port: int
    status: StatusHeard
    page: SeriesPage
