"""Puts a gateway's routes together with everything they need: the composition of the data plane without Ray.

Not here: the parts themselves, and the listener that the routes end up behind.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from models.registry import Registry
from serving.cache.tiers import PredictionCache
from serving.clock import SystemClock
from serving.gateway import Gateway
from serving.incidents.keeper import Keeper
from serving.ingress.information import Information
from serving.ingress.routes import Door, Routes
from serving.metrics import (
    LATENCY_BUCKETS_S,
    CacheMetrics,
    GatewayMetrics,
    IncidentMetrics,
    ProtectionMetrics,
    QualityMetrics,
    ShadowMetrics,
    TracingMetrics,
    render_metrics,
)
from serving.request.pipeline import Pipeline
from serving.request.record import RequestRecorder, Tally
from serving.settings import Settings
from serving.status import gateway_status
from serving.tracing.export import ExportStats, SpanExport
from serving.tracing.observers import Observers
from serving.tracing.request_log import LogStats
from serving.tracing.setup import request_contexts, request_log

Hear = Callable[[Mapping[tuple[str, str], Tally], Mapping[str, float]], None]
"""Takes what was counted since the last call, by model and version, and the weights of the canaries by model."""


class Front(NamedTuple):
    """``flush_metrics`` hands what was counted since the last call to the node's metrics."""

    routes: Routes
    flush_metrics: Callable[[], Awaitable[None]]


def build_routes(
    settings: Settings,
    gateway: Gateway,
    *,
    registry: Registry,
    doors: Sequence[Door] = (),
    metrics_dir: Path,
    cache: PredictionCache | None = None,
    hear: Hear | None = None,
    incidents: Keeper | None = None,
    traces: SpanExport | None = None,
) -> Front:
    clock = SystemClock()
    recorder = RequestRecorder(LATENCY_BUCKETS_S)
    lines = request_log(settings, gateway, clock=clock, random=random.random)
    sent = None if traces is None else traces.stats
    reported = Reported(gateway, recorder, cache, hear=hear, incidents=incidents, lines=lines.stats, traces=sent)

    async def flush() -> None:
        reported.flush()

    async def render() -> bytes:
        reported.flush()
        return await asyncio.to_thread(render_metrics, metrics_dir)

    information = Information(
        gateway,
        version=own_version(),
        list_versions=registry.versions,
        render_metrics=render,
        status=lambda: gateway_status(gateway, cache=cache, clock=clock, incidents=incidents),
    )
    observers = [observer for observer in (lines, incidents, traces) if observer is not None]
    pipeline = Pipeline(
        gateway, recorder, clock=clock, observer=Observers(observers), body_max_bytes=settings.http.body_max_bytes
    )
    routes = Routes(
        pipeline,
        information,
        doors,
        contexts=request_contexts(settings, traces, clock=clock, random=random.random, random_bits=random.getrandbits),
    )
    return Front(routes, flush)


class Reported:
    """Hands what a gateway has counted to the node's metrics, and to who else wants to ``hear`` of it."""

    def __init__(
        self,
        gateway: Gateway,
        recorder: RequestRecorder,
        cache: PredictionCache | None,
        *,
        lines: LogStats,
        traces: ExportStats | None = None,
        hear: Hear | None = None,
        incidents: Keeper | None = None,
    ) -> None:
        self._gateway = gateway
        self._recorder = recorder
        self._cache = None if cache is None else (cache, CacheMetrics())
        self._hear = hear
        self._incidents = incidents
        self._lines = lines
        self._traces = traces
        self._metrics = GatewayMetrics()
        self._protection = ProtectionMetrics()
        self._shadow = ShadowMetrics()
        self._quality = QualityMetrics()
        self._kept = IncidentMetrics()
        self._tracing = TracingMetrics()
        self._shown: set[tuple[str, str]] = set()
        self._canaries: set[tuple[str, str]] = set()

    def flush(self) -> None:
        tallies = self._recorder.collect()
        for key, tally in tallies.items():
            self._metrics.add_requests(key, tally)
        if self._hear is not None:
            self._hear(tallies, self._gateway.canary_weights)
        versions = {(found.served.model, found.served.version): found for found in self._gateway.versions}
        for key, found in versions.items():
            self._metrics.show_lane(key, found.lane)
            self._protection.show_version(key, found)
        for key in self._shown - versions.keys():
            self._metrics.drop_lane(key)
            self._protection.drop_version(key)
        self._shown = set(versions)
        for name, plan in self._gateway.planner.models.items():
            self._protection.show_model(name, plan)
        self._gateway.mirrors.look()
        for mirror in self._gateway.mirrors.all:
            self._shadow.show(mirror)
        self._flush_canaries()
        if self._cache is not None:
            cache, metrics = self._cache
            metrics.show(cache.stats()._asdict())
        for name, counts in self._gateway.planner.quality.items():
            self._quality.show(name, counts)
        if self._incidents is not None:
            self._kept.show(self._incidents.stats)
        self._tracing.show(self._lines, self._traces)
        self._metrics.show_generation(self._gateway.table.generation)

    def _flush_canaries(self) -> None:
        shown: set[tuple[str, str]] = set()
        for model in self._gateway.models_with_outcomes:
            if (outcomes := self._gateway.collect_outcomes(model, keys_from=sys.maxsize)) is not None:
                self._protection.show_canary(outcomes)
                shown.add((model, outcomes.canary))
        for key in self._canaries - shown:
            self._protection.drop_canary(*key)
        self._canaries = shown


def own_version() -> str:
    """Holdfast's version, as installed."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "0+unknown"
