"""What protects requests in one gateway, and how it stands: the body of ``GET /v2/holdfast/status``.

Breakers, limits and ejections are a gateway's own, so this tells of one gateway; ``/metrics`` sums over all. Not here:
carrying it over HTTP (``serving.ingress.information``).
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict
from typing import Any

import msgspec
from msgspec.structs import asdict as asdict_of

from serving.cache.tiers import PredictionCache
from serving.clock import Clock
from serving.gateway import Gateway
from serving.incidents.keeper import Keeper
from serving.plans import ModelPlan
from serving.shadow.mirror import Mirror
from serving.version import Version


def gateway_status(
    gateway: Gateway, *, cache: PredictionCache | None, clock: Clock, incidents: Keeper | None = None
) -> dict[str, Any]:
    """Plain data; times in seconds, moments in seconds since the Unix epoch."""
    versions: dict[str, dict[str, Any]] = {}
    for version in gateway.versions:
        versions.setdefault(version.served.model, {})[version.served.version] = _version(version)
    plans = gateway.planner.models
    return {
        "gateway": {
            "pid": os.getpid(),
            "system": gateway.system,
            "time": round(clock.wall(), 3),
            "accepting": gateway.accepting,
            "ready": gateway.ready,
            "routing_table": gateway.table.generation,
        },
        "models": {
            name: _model(gateway, name, plans.get(name), versions.get(name, {})) for name in sorted({*plans, *versions})
        },
        "unavailable": dict(gateway.table.unavailable),
        "withdrawn": dict(gateway.table.withdrawn),
        "coming": list(gateway.table.coming),
        "cache": None if cache is None else cache.stats()._asdict(),
        "incidents": None if incidents is None else _incidents(incidents),
    }


def _incidents(keeper: Keeper) -> dict[str, Any]:
    """How many are in the node's store, and what this gateway made of its own. Nothing of what they hold."""
    stats = keeper.stats
    kept: dict[str, dict[str, int]] = {}
    for (model, failure), number in tuple(stats.kept.items()):  # which another thread counts
        kept.setdefault(model, {})[failure] = number
    return {
        "stored": stats.number,
        "bytes": stats.bytes,
        "waiting": keeper.waiting,
        "kept": kept,
        "dropped": dict(stats.dropped),
    }


def _model(gateway: Gateway, name: str, plan: ModelPlan | None, versions: dict[str, Any]) -> dict[str, Any]:
    route = gateway.table.models.get(name)
    return {
        "stable": None if route is None else route.stable,
        "canary": _canary(gateway, name),
        "admission": None if plan is None else plan.admission.status(),
        "fallback": [] if plan is None else _chain(plan),
        "shadows": [_mirror(mirror) for mirror in gateway.mirrors.all if mirror.model == name],
        "versions": versions,
    }


def _canary(gateway: Gateway, model: str) -> dict[str, Any] | None:
    """The latest one, and how first attempts of requests that were thrown between it and the stable version ended."""
    outcomes = gateway.collect_outcomes(model, keys_from=sys.maxsize)
    if outcomes is None:
        return None
    route = gateway.table.models.get(model)
    split = None if route is None else route.split
    return {
        "version": outcomes.canary,
        "epoch": outcomes.epoch,
        "weight": outcomes.weight,
        "ended": outcomes.ended,
        "fault": outcomes.fault or None,
        "stickiness": None if split is None else split.stickiness,
        "objective_s": None if split is None else split.objective_s,
        "weights": [
            {"weight": at.weight, "canary": asdict_of(at.canary), "stable": asdict_of(at.stable)}
            for at in outcomes.weights
        ],
        "bad_keys": outcomes.next_key,
        "keys_full": outcomes.keys_full,
    }


def _chain(plan: ModelPlan) -> list[dict[str, Any]]:
    chain = plan.chain
    return [
        {
            "type": strategy.kind,
            "name": strategy.name,
            "answered": chain.answered[strategy.name],
            "unusable": chain.unusable[strategy.name],
        }
        for strategy in chain.strategies
    ]


def _mirror(mirror: Mirror) -> dict[str, Any]:
    """``share`` is 0 once it is stopped; ``worst`` None where a difference couldn't be measured."""
    tally = mirror.tally
    return {
        **msgspec.to_builtins(mirror.counts()),
        "share": mirror.share,
        "silent": mirror.silent,
        "worst": tally.worst if math.isfinite(tally.worst) else None,
        "last_disagreement": tally.last_disagreement or None,
        "waiting": mirror.waiting,
        "under_way": mirror.under_way,
        "held_bytes": mirror.held_bytes,
    }


def _version(version: Version) -> dict[str, Any]:
    lane = version.lane
    attempts = version.served.attempts
    stats = attempts.stats
    return {
        "digest": version.digest,
        "ready": lane.ready,
        "breaker": asdict(attempts.breaker.status()),
        "attempts": dict(stats.outcomes),
        "retries": {
            "made": stats.retries,
            "hedges": stats.hedges,
            "without_budget": stats.budget_exhausted,
            "budget": round(attempts.budget.tokens, 1),
        },
        "waiting": lane.waiting,
        "inflight_batches": lane.inflight_batches,
        "replicas": _replicas(version),
    }


def _replicas(version: Version) -> list[dict[str, Any]]:
    """Those that the gateway has a channel to; without any, the Serve handle carries the requests."""
    figures = {entry.replica_id: entry for entry in version.lane.outliers.status()}
    processes = version.link.processes()
    found: list[dict[str, Any]] = []
    for client in version.lane.replicas:
        entry = {"id": client.replica_id, "live": client.live, "outstanding": client.outstanding}
        if (process := processes.get(client.replica_id)) is not None:
            entry["pid"] = process.pid
        if (seen := figures.get(client.replica_id)) is not None:
            entry |= {name: value for name, value in asdict(seen).items() if name != "replica_id"}
        found.append(entry)
    return found
