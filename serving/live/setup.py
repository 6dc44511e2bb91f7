"""Puts together what a gateway needs to tell of the whole node. Not here: the parts."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from serving.clock import Clock
from serving.incidents.store import IncidentStore
from serving.live.control import ControlPlane
from serving.live.gathering import Gathering, Versions
from serving.live.heard import Heard, StatusHeard
from serving.live.history import History
from serving.live.hub import Hub
from serving.live.kept import newest_in
from serving.live.routes import LiveRoutes
from serving.live.seldom import Seldom
from serving.live.series import Recording
from serving.live.siblings import Siblings
from serving.live.snapshot import Admin, Incidents
from serving.metrics import LATENCY_BUCKETS_S, golden_failures
from serving.model_settings import ModelSettings
from serving.request.record import Tally
from serving.settings import GatewaySettings, Settings


class Live(NamedTuple):
    """``hear`` takes what was counted since its last call, and the weights of the canaries; ``close`` ends it all."""

    routes: LiveRoutes
    hear: Callable[[Mapping[tuple[str, str], Tally], Mapping[str, float]], None]
    close: Callable[[], None]


def build_live(
    settings: Settings,
    *,
    status: Callable[[], Mapping[str, Any]],
    rollouts: Callable[[], Awaitable[bytes]],
    port: Callable[[], int],
    metrics_dir: Path,
    incidents: IncidentStore | None,
    system: str,
    version: str,
    clock: Clock,
) -> Live:
    """``status`` is this gateway's, ``port`` where it listens, ``rollouts`` asks the control plane for all of them.

    ``system`` is the mark of this Holdfast's gateways.
    """
    name = f"{os.getpid()}-{clock.wall():.0f}"
    recording = Recording(name, buckets=len(LATENCY_BUCKETS_S) + 1, now=clock.wall())
    history = History(LATENCY_BUCKETS_S)
    golden: Seldom[Versions] = Seldom(lambda: golden_failures(metrics_dir), {}, clock=clock)
    kept = Seldom(lambda: Incidents() if incidents is None else newest_in(incidents), Incidents(), clock=clock)
    control = ControlPlane(rollouts, clock=clock)

    def own() -> Heard:
        return Heard(port(), msgspec.convert(status(), StatusHeard), recording.page(history.after(name)))

    gathering = Gathering(
        own=own,
        siblings=Siblings(settings.http, system=system, own_port=port, after=history.after, clock=clock),
        control=control,
        golden=golden.look,
        kept=kept.look,
        history=history,
        expected=at_least(settings.gateway),
        wanted={model.name: at_least(model) for model in settings.models},
        admin=Admin(settings.admin_allowed, settings.admin_token_file is not None),
        version=version,
        pid=os.getpid(),
        clock=clock,
    )
    hub = Hub(gathering, clock=clock)

    def hear(tallies: Mapping[tuple[str, str], Tally], weights: Mapping[str, float]) -> None:
        recording.add(tallies, weights=weights, now=clock.wall())

    def close() -> None:
        hub.close()
        control.close()

    return Live(LiveRoutes(hub, recording.page), hear, close)


def at_least(own: GatewaySettings | ModelSettings) -> int:
    """How many of them there should be: gateways, or replicas of each version of a model."""
    return own.replicas if own.autoscaling is None else own.autoscaling.min_replicas
