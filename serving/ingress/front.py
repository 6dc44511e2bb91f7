"""Puts a gateway's routes together with everything they need: the composition of the data plane without Ray.

Not here: the parts themselves, and the listener that the routes end up behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from models.registry import Registry
from serving.clock import SystemClock
from serving.gateway import Gateway
from serving.ingress.information import Information
from serving.ingress.routes import ModelControl, Routes
from serving.metrics import LATENCY_BUCKETS_S, GatewayMetrics, render_metrics
from serving.request.pipeline import Pipeline
from serving.request.record import RequestRecorder
from serving.settings import Settings


class Front(NamedTuple):
    """``flush_metrics`` hands what was counted since the last call to the node's metrics."""

    routes: Routes
    flush_metrics: Callable[[], Awaitable[None]]


def build_routes(
    settings: Settings, gateway: Gateway, *, registry: Registry, control: ModelControl | None, metrics_dir: Path
) -> Front:
    recorder = RequestRecorder(LATENCY_BUCKETS_S)
    metrics = GatewayMetrics()
    shown: set[tuple[str, str]] = set()

    async def flush() -> None:
        for key, tally in recorder.collect().items():
            metrics.add_requests(key, tally)
        lanes = {(version.served.model, version.served.version): version.lane for version in gateway.versions}
        for key, lane in lanes.items():
            metrics.show_lane(key, lane)
        for key in shown - lanes.keys():
            metrics.drop_lane(key)
        shown.clear()
        shown.update(lanes)
        metrics.show_generation(gateway.table.generation)

    async def render() -> bytes:
        await flush()
        return await asyncio.to_thread(render_metrics, metrics_dir)

    information = Information(gateway, version=own_version(), list_versions=registry.versions, render_metrics=render)
    pipeline = Pipeline(gateway, recorder, clock=SystemClock())
    routes = Routes(pipeline, information, control, body_max_bytes=settings.http.body_max_bytes)
    return Front(routes, flush)


def own_version() -> str:
    """Holdfast's version, as installed."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "0+unknown"
