"""Answers to every question that isn't an inference: health, metadata, configuration, statistics, index, metrics.

Not here: paths and methods (``serving.ingress.routes``), the form of the bodies (``serving.protocol.metadata``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from models.manifest import ModelVersion
from serving.errors import InvalidRequest
from serving.gateway import Gateway
from serving.ingress.haproxy import accepting_body
from serving.ingress.http import HttpResponse, json_response
from serving.protocol import metadata
from serving.protocol.metadata import IndexEntry, ModelStats, Replica, Timing, VersionReplicas
from serving.version import Version

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

ListVersions = Callable[[], list[ModelVersion]]


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class Information:
    """What this gateway knows, as responses."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        version: str,
        list_versions: ListVersions,
        render_metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._gateway = gateway
        self._server = json_response(metadata.server_metadata(version))
        self._list_versions = list_versions
        self._render_metrics = render_metrics
        self._status = status

    async def answer(self, endpoint: str, model: str, version: str | None, body: bytes) -> HttpResponse:
        """Raises ``ModelNotFound``, ``ReplicaUnavailable`` of what is still to come, and ``InvalidRequest``."""
        match endpoint:
            case "server":
                return self._server
            case "live":
                return json_response(metadata.live_body(True))
            case "ready":
                return _health(metadata.ready_body(self._gateway.ready), self._gateway.ready)
            case "accepting":
                accepting = self._gateway.accepting
                return _health(accepting_body(accepting, self._gateway.system), accepting)
            case "models":
                return json_response(metadata.model_list(sorted(self._gateway.table.models)))
            case "index":
                return json_response(await self._index(body))
            case "replicas":
                return json_response(metadata.replica_list(self._replicas()))
            case "metrics":
                rendered = await self._render_metrics()
                return HttpResponse(200, [(b"content-type", METRICS_TYPE)], rendered)
            case "status":
                return json_response(msgspec.json.encode(self._status()))
            case "stats":
                return json_response(metadata.statistics(self._stats(model, version)))
            case _:
                return self._of_model(endpoint, model, version)

    def _of_model(self, endpoint: str, model: str, version: str | None) -> HttpResponse:
        found = self._gateway.version(model, version)
        manifest = found.manifest
        if endpoint == "model_ready":
            return _health(metadata.model_ready_body(model, found.lane.ready), found.lane.ready)
        if endpoint == "config":
            rows = self._gateway.settings_of(model).max_batch_rows if manifest.signature.batched else 0
            body = metadata.model_config(
                model, backend=manifest.backend, signature=manifest.signature, max_batch_size=rows
            )
            return json_response(body)
        versions = [version] if version else sorted(self._gateway.table.models[model].versions)
        return json_response(
            metadata.model_metadata(model, versions=versions, backend=manifest.backend, signature=manifest.signature)
        )

    def _stats(self, model: str, version: str | None) -> list[ModelStats]:
        if model:
            self._gateway.version(model, version)  # an unknown one is an error, not an empty list
        return [
            _model_stats(found)
            for found in self._gateway.versions
            if model in ("", found.served.model) and version in (None, found.served.version)
        ]

    def _replicas(self) -> list[VersionReplicas]:
        versions = sorted(self._gateway.versions, key=lambda version: version.served.name)
        return [
            VersionReplicas(
                version.served.model,
                version.served.version,
                [Replica(name, *where) for name, where in sorted(version.link.processes().items())],
            )
            for version in versions
        ]

    async def _index(self, body: bytes) -> bytes:
        try:
            wish = msgspec.json.decode(body, type=_IndexRequest) if body else _IndexRequest()
        except (ValueError, RecursionError) as error:  # msgspec's own errors, and what isn't UTF-8
            raise InvalidRequest(f"the body: {error}") from None
        lanes = {ModelVersion(v.served.model, v.served.version): v.lane for v in self._gateway.versions}
        reasons = self._gateway.table.unavailable
        entries: list[IndexEntry] = []
        for name in sorted({*await asyncio.to_thread(self._list_versions), *lanes}):
            if name in lanes and lanes[name].ready:
                entries.append(IndexEntry(name.model, name.version, "READY"))
            else:
                default = "no replica can take work now" if name in lanes else "not loaded"
                entries.append(IndexEntry(name.model, name.version, "UNAVAILABLE", reasons.get(str(name), default)))
        return metadata.repository_index(entries, ready_only=wish.ready)


def _health(body: bytes, good: bool) -> HttpResponse:
    return json_response(body, 200 if good else 503)


def _model_stats(version: Version) -> ModelStats:
    stats = version.lane.stats
    return ModelStats(
        version.served.model,
        version.served.version,
        inference_count=stats.rows,
        execution_count=stats.batches,
        last_inference_ms=int(stats.last_wall * 1000),
        success=_timing(stats.requests, stats.success_s),
        fail=_timing(stats.failed, stats.fail_s),
        queue=_timing(stats.requests, stats.queue_s),
        compute_infer=_timing(stats.batches, stats.compute_s),
    )


def _timing(count: int, seconds: float) -> Timing:
    return Timing(count, int(seconds * 1e9))
