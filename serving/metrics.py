"""Every metric of Holdfast, by name. ``docs/metrics.md`` explains them.

All processes of a node write to one folder (prometheus_client's multiprocess mode), so that whichever gateway is
asked for ``/metrics`` answers for all gateways and model replicas of the node. ``open_metrics`` must be called
before anything else in the process imports prometheus_client. Not here: what is counted when.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

    from serving.incidents.keeper import KeeperStats
    from serving.plans import ModelPlan
    from serving.request.lane import Lane
    from serving.request.quality import QualityCounts
    from serving.request.record import Tally
    from serving.routing.outcomes import SplitOutcomes
    from serving.shadow.mirror import Mirror
    from serving.tracing.export import ExportStats
    from serving.tracing.request_log import LogStats
    from serving.version import Version

LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COMPUTE_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BATCH_BUCKETS_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

GOLDEN_CHECKS: Final = "holdfast_golden_checks_total"

_LABELS: Final = ("model", "version")
_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"


def open_metrics(folder: Path) -> None:
    """Write this process's metrics into ``folder``. Call it once, first.

    Raises ``RuntimeError`` if prometheus_client is imported already: its mode can't be changed any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "prometheus_client" in sys.modules and os.environ.get(_FOLDER) != str(folder):
        raise RuntimeError("prometheus_client was imported before open_metrics")
    os.environ[_FOLDER] = str(folder)
    from serving.metrics_file import count_into_allocated_files

    count_into_allocated_files()


def render_metrics(folder: Path) -> bytes:
    """The metrics of all processes that write to ``folder``, in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_dead_processes(folder: Path) -> None:
    """Drop the gauges of processes that are gone; their counters stay, so that sums never fall."""
    from prometheus_client.multiprocess import mark_process_dead

    for pid in {path.stem.rsplit("_", 1)[-1] for path in folder.glob("gauge_live*.db")}:
        if not Path("/proc", pid).exists():
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def golden_failures(folder: Path) -> dict[tuple[str, str], int]:
    """How often replicas of each version failed their golden self-test, also of those that have ended since.

    A file that can't be read counts for nothing.
    """
    failed: dict[tuple[str, str], int] = {}
    for path in folder.glob("counter_*.db"):
        for key, value in _values_in(path):
            _, metric, labels, _ = json.loads(key)
            if metric == GOLDEN_CHECKS and labels["result"] == "failed" and value:
                version = labels["model"], labels["version"]
                failed[version] = failed.get(version, 0) + int(value)
    return failed


def _values_in(path: Path) -> list[tuple[str, float]]:
    from prometheus_client.mmap_dict import MmapedDict

    try:
        found = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, *_ in found]
    except (OSError, ValueError, RuntimeError, struct.error):  # gone, torn or empty
        return []


class Growth:
    """How much a sum has grown since it was last looked at; one that began anew has grown by all that it is."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, float] = {}

    def of(self, key: Hashable, total: float) -> float:
        before = self._seen.get(key, 0.0)
        self._seen[key] = total
        return total - before if total >= before else total

    def add(self, counter: Counter, labels: tuple[str, ...], total: float) -> None:
        """Also nothing: who watches growth doesn't see that of a counter which wasn't there before."""
        counter.labels(*labels).inc(self.of((counter._name, labels), total))  # noqa: SLF001  # only as a key


def _counter(name: str, text: str, *labels: str) -> Counter:
    from prometheus_client import Counter

    return Counter(name, text, labels, registry=None)


def _gauge(name: str, text: str, *labels: str, mode: Literal["livesum", "livemin", "livemax"] = "livesum") -> Gauge:
    from prometheus_client import Gauge

    return Gauge(name, text, labels, multiprocess_mode=mode, registry=None)


ProcessKind = Literal["gateway", "replica", "control", "haproxy"]


class ProcessMetrics:
    """What is told of a process of this kind: that it began, that it runs, and that it ended as it was told to.

    One that began and neither runs nor ended so has died.
    """

    def __init__(self, kind: ProcessKind, model: str = "", version: str = "") -> None:
        labels = ("kind", *_LABELS)
        self._key = (kind, model, version)
        self._starts = _counter("holdfast_process_starts_total", "Processes that began.", *labels)
        self._ends = _counter("holdfast_process_ends_total", "Processes that ended as they were told to.", *labels)
        self._running = _gauge("holdfast_processes", "Processes that run.", *labels)

    def began(self) -> None:
        self._starts.labels(*self._key).inc()
        self._ends.labels(*self._key).inc(0)
        self._running.labels(*self._key).set(1)

    def ended(self) -> None:
        self._ends.labels(*self._key).inc()
        self._running.labels(*self._key).set(0)


class GatewayMetrics:
    """What a gateway process reports of its requests and lanes."""

    def __init__(self) -> None:
        from prometheus_client import Histogram

        self._requests = _counter(
            "holdfast_requests_total", "Inference requests by how they ended.", *_LABELS, "outcome"
        )
        self._degraded = _counter(
            "holdfast_degraded_answers_total",
            "Answers that something else than the version gave.",
            *_LABELS,
            "by",
            "reason",
        )
        self._fresh = _counter("holdfast_fresh_cache_answers_total", "Answers from the cache, young enough.", *_LABELS)
        self._duration = Histogram(
            "holdfast_request_duration_seconds",
            "From a request's arrival in the gateway to its encoded answer.",
            _LABELS,
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self._waiting = _gauge(
            "holdfast_lane_waiting_requests", "Requests that wait in the gateways for a replica.", *_LABELS
        )
        self._inflight = _gauge("holdfast_lane_inflight_batches", "Batches that replicas are working on.", *_LABELS)
        self._channels = _gauge("holdfast_live_channels", "Tensor channels from gateways to live replicas.", *_LABELS)
        self._generation = _gauge(
            "holdfast_routing_table_generation",
            "Generation of the routing table in force, the oldest of all gateways.",
            mode="livemin",
        )

    def add_requests(self, key: tuple[str, str], tally: Tally) -> None:
        for outcome, count in tally.outcomes.items():
            self._requests.labels(*key, outcome).inc(count)
        for (kind, reason), count in tally.origins.items():
            if reason:
                self._degraded.labels(*key, kind, reason).inc(count)
            else:
                self._fresh.labels(*key).inc(count)
        _observe_many(self._duration.labels(*key), tally.buckets, tally.seconds)

    def show_lane(self, key: tuple[str, str], lane: Lane) -> None:
        self._waiting.labels(*key).set(lane.waiting)
        self._inflight.labels(*key).set(lane.inflight_batches)
        self._channels.labels(*key).set(lane.live_channels)

    def drop_lane(self, key: tuple[str, str]) -> None:
        """A version is no longer served here."""
        for gauge in (self._waiting, self._inflight, self._channels):
            gauge.labels(*key).set(0)

    def show_generation(self, generation: int) -> None:
        self._generation.set(generation)


BREAKER_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}


class ProtectionMetrics:
    """What a gateway process reports of what protects its requests."""

    def __init__(self) -> None:
        self._growth = Growth()
        self._attempts = _counter(
            "holdfast_attempts_total", "Attempts at a version by how they ended.", *_LABELS, "outcome"
        )
        self._retries = _counter("holdfast_retries_total", "Further attempts after a failed one.", *_LABELS)
        self._hedges = _counter("holdfast_hedges_total", "Second attempts beside a slow one.", *_LABELS)
        self._unaffordable = _counter(
            "holdfast_retry_budget_exhausted_total", "Failures that weren't tried again for want of budget.", *_LABELS
        )
        self._breaker = _gauge(
            "holdfast_breaker_state",
            "0 closed, 1 half-open, 2 open; the worst of all gateways.",
            *_LABELS,
            mode="livemax",
        )
        self._opened = _counter("holdfast_breaker_opened_total", "Times that a breaker opened.", *_LABELS)
        self._ejected = _gauge("holdfast_ejected_replicas", "Replicas that get no requests for a while.", *_LABELS)
        self._limit = _gauge("holdfast_admission_limit", "Requests that are let in at once.", "model")
        self._admitted = _gauge("holdfast_admission_inflight_requests", "Requests that are let in now.", "model")
        self._queued = _gauge(
            "holdfast_admission_waiting_requests", "Requests that wait to be let in.", "model", "priority"
        )
        self._shed = _counter("holdfast_shed_requests_total", "Requests shed at once.", "model", "priority")
        self._fallbacks = _counter(
            "holdfast_fallbacks_total",
            "Fallbacks asked, by what was asked and whether it answered.",
            "model",
            "fallback",
            "result",
        )
        self._canary_weight = _gauge(
            "holdfast_canary_weight",
            "Share of a model's requests that its canary gets, the largest of all gateways.",
            *_LABELS,
            mode="livemax",
        )
        self._canary_attempts = _counter(
            "holdfast_canary_attempts_total",
            "First attempts of requests thrown between a canary and the stable version.",
            *_LABELS,
            "outcome",
        )

    def show_version(self, key: tuple[str, str], version: Version) -> None:
        attempts = version.served.attempts
        stats = attempts.stats
        for outcome, count in stats.outcomes.items():
            self._growth.add(self._attempts, (*key, outcome), count)
        self._growth.add(self._retries, key, stats.retries)
        self._growth.add(self._hedges, key, stats.hedges)
        self._growth.add(self._unaffordable, key, stats.budget_exhausted)
        breaker = attempts.breaker.status()
        self._breaker.labels(*key).set(BREAKER_STATES[breaker.state])
        self._growth.add(self._opened, key, breaker.opened)
        self._ejected.labels(*key).set(sum(entry.ejected for entry in version.lane.outliers.status()))

    def drop_version(self, key: tuple[str, str]) -> None:
        """A version is no longer served here."""
        self._breaker.labels(*key).set(0)
        self._ejected.labels(*key).set(0)

    def show_model(self, name: str, plan: ModelPlan) -> None:
        admission = plan.admission
        self._limit.labels(name).set(admission.limit)
        self._admitted.labels(name).set(admission.inflight)
        for priority, waiting in admission.waiting.items():
            self._queued.labels(name, str(priority)).set(waiting)
        for priority, shed in admission.shed.items():
            self._growth.add(self._shed, (name, str(priority)), shed)
        for strategy in plan.chain.strategies:
            self._growth.add(self._fallbacks, (name, strategy.name, "answered"), plan.chain.answered[strategy.name])
            self._growth.add(self._fallbacks, (name, strategy.name, "unusable"), plan.chain.unusable[strategy.name])

    def show_canary(self, outcomes: SplitOutcomes) -> None:
        """What was counted of a model's canary and, at the same time, of its stable version."""
        model = outcomes.model
        self._canary_weight.labels(model, outcomes.canary).set(outcomes.weight)
        for version, variants in (
            (outcomes.canary, [at.canary for at in outcomes.weights]),
            (outcomes.stable, [at.stable for at in outcomes.weights]),
        ):
            totals = {
                "ok": sum(each.attempts - each.bad - each.repeated for each in variants),
                "failed": sum(each.bad - each.slow - each.invalid for each in variants),
                "slow": sum(each.slow for each in variants),
                "invalid": sum(each.invalid for each in variants),
                "repeated": sum(each.repeated for each in variants),
            }
            for outcome, total in totals.items():
                if (growth := self._growth.of((outcomes.epoch, model, version, outcome), total)) > 0:
                    self._canary_attempts.labels(model, version, outcome).inc(growth)

    def drop_canary(self, model: str, version: str) -> None:
        """It is no canary any more."""
        self._canary_weight.labels(model, version).set(0)


class CacheMetrics:
    """What a gateway process reports of its cache of predictions; one without a cache reports nothing, not even 0."""

    def __init__(self) -> None:
        self._growth = Growth()
        self._operations = _counter(
            "holdfast_cache_operations_total", "What the cache of predictions did.", "operation"
        )
        self._bytes = _gauge("holdfast_cache_bytes", "Size of the node's cache of predictions.", mode="livemax")
        self._entries = _gauge("holdfast_cache_entries", "Predictions in the node's cache.", mode="livemax")
        self._waiting = _gauge("holdfast_cache_waiting_answers", "Answers that wait to be written to the cache.")
        self._waiting_bytes = _gauge("holdfast_cache_waiting_bytes", "Memory of the answers that wait.")

    def show(self, stats: Mapping[str, int]) -> None:
        now = {
            "bytes": self._bytes,
            "entries": self._entries,
            "waiting": self._waiting,
            "waiting_bytes": self._waiting_bytes,
        }
        for name, value in stats.items():
            if name in now:
                now[name].set(value)
            else:
                self._growth.add(self._operations, (name,), value)


class ShadowMetrics:
    """What a gateway process reports of its mirrors."""

    def __init__(self) -> None:
        labels = ("model", "shadow")
        self._growth = Growth()
        self._mirrored = _counter(
            "holdfast_shadow_mirrored_requests_total", "Requests that a shadow was asked.", *labels
        )
        self._dropped = _counter(
            "holdfast_shadow_dropped_requests_total",
            "Requests that were to be mirrored, but weren't.",
            *labels,
            "reason",
        )
        self._failed = _counter(
            "holdfast_shadow_failed_requests_total", "Mirrored requests without an answer.", *labels, "reason"
        )
        self._compared = _counter("holdfast_shadow_compared_rows_total", "Rows whose answers were compared.", *labels)
        self._agreed = _counter("holdfast_shadow_agreed_rows_total", "Rows whose answers agreed.", *labels)
        self._disagreed = _counter(
            "holdfast_shadow_disagreements_total", "Mirrored requests with a row that didn't agree.", *labels, "reason"
        )
        self._held = _gauge("holdfast_shadow_held_bytes", "Memory that mirrored requests hold.", *labels)
        self._silent = _gauge(
            "holdfast_shadow_silent", "1 if a mirror should see traffic and sees none.", *labels, mode="livemax"
        )

    def show(self, mirror: Mirror) -> None:
        counts = mirror.counts()
        key = (counts.model, counts.shadow)
        self._growth.add(self._mirrored, key, counts.mirrored)
        self._growth.add(self._compared, key, counts.compared_rows)
        self._growth.add(self._agreed, key, counts.agreed_rows)
        for counter, by_reason in (
            (self._dropped, counts.dropped),
            (self._failed, counts.failed),
            (self._disagreed, counts.disagreed),
        ):
            for reason, count in by_reason.items():
                self._growth.add(counter, (*key, reason), count)
        self._held.labels(*key).set(mirror.held_bytes)
        self._silent.labels(*key).set(mirror.silent)


class QualityMetrics:
    """What a gateway process reports of requests whose values aren't as their model's manifest says."""

    def __init__(self) -> None:
        self._growth = Growth()
        self._violations = _counter(
            "holdfast_input_quality_violations_total",
            "Values of requests that aren't as the manifest says, by feature.",
            "model",
            "feature",
            "kind",
        )
        self._requests = _counter(
            "holdfast_input_quality_requests_total", "Requests with at least one such value.", "model"
        )

    def show(self, model: str, counts: QualityCounts) -> None:
        for (feature, kind), values in counts.values.items():
            growth = self._growth.of((model, feature, kind), values)
            self._violations.labels(model, feature, kind).inc(growth)
        self._requests.labels(model).inc(self._growth.of(model, counts.requests))


class IncidentMetrics:
    """What a gateway process reports of the incidents that it keeps, and of the node's store."""

    def __init__(self) -> None:
        self._growth = Growth()
        self._kept = _counter("holdfast_incidents_kept_total", "Incidents that were written.", "model", "failure")
        self._dropped = _counter("holdfast_incidents_dropped_total", "Incidents that weren't kept.", "reason")
        self._number = _gauge("holdfast_incidents_stored", "Incidents in the node's store.", mode="livemax")
        self._bytes = _gauge("holdfast_incidents_bytes", "Size of the node's store of incidents.", mode="livemax")

    def show(self, stats: KeeperStats) -> None:
        for key, kept in tuple(stats.kept.items()):  # which another thread counts
            self._kept.labels(*key).inc(self._growth.of(key, kept))
        for reason, dropped in tuple(stats.dropped.items()):
            self._dropped.labels(reason).inc(self._growth.of(reason, dropped))
        self._number.set(stats.number)
        self._bytes.set(stats.bytes)


class TracingMetrics:
    """What a gateway process reports of the lines and the spans of requests."""

    def __init__(self) -> None:
        self._growth = Growth()
        self._written = _counter("holdfast_request_log_lines_total", "Lines in the log about single requests.")
        self._held_back = _counter(
            "holdfast_request_log_lines_held_back_total", "Lines that weren't written, being too many of their kind."
        )
        self._spans = _counter("holdfast_trace_spans_total", "Spans that were sent to the collector.")
        self._dropped = _counter(
            "holdfast_trace_requests_dropped_total", "Traced requests whose spans weren't sent.", "reason"
        )

    def show(self, lines: LogStats, traces: ExportStats | None) -> None:
        self._written.inc(self._growth.of("written", lines.written))
        self._held_back.inc(self._growth.of("held back", lines.held_back))
        if traces is None:
            return
        self._spans.inc(self._growth.of("spans", traces.spans))
        for reason, dropped in tuple(traces.dropped.items()):  # which another thread counts
            self._dropped.labels(reason).inc(self._growth.of(("dropped", reason), dropped))


class AdminMetrics:
    """What a gateway process reports of those who may not change the system and tried."""

    def __init__(self) -> None:
        self._refused = _counter(
            "holdfast_admin_refused_total", "Requests to change the system that were refused unread.", "reason"
        )

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()


class _Runs:
    """Runs of the model since the last flush; buckets as in ``Tally``."""

    __slots__ = ("compute", "dropped", "rows", "seconds", "sizes")

    def __init__(self) -> None:
        self.compute = [0] * (len(COMPUTE_BUCKETS_S) + 1)
        self.sizes = [0] * (len(BATCH_BUCKETS_ROWS) + 1)
        self.seconds = 0.0
        self.rows = 0
        self.dropped = 0


class ReplicaMetrics:
    """What a model replica's process reports."""

    def __init__(self, model: str, version: str) -> None:
        from prometheus_client import Counter, Histogram

        self._compute = Histogram(
            "holdfast_model_compute_seconds",
            "Time that one run of the model took.",
            _LABELS,
            buckets=COMPUTE_BUCKETS_S,
            registry=None,
        ).labels(model, version)
        self._rows = Histogram(
            "holdfast_model_batch_rows",
            "Rows in one run of the model.",
            _LABELS,
            buckets=BATCH_BUCKETS_ROWS,
            registry=None,
        ).labels(model, version)
        self._failures = Counter(
            "holdfast_model_failures_total", "Runs in which the model raised.", _LABELS, registry=None
        ).labels(model, version)
        self._dropped = Counter(
            "holdfast_model_dropped_requests_total",
            "Requests dropped before the model ran: too late, or nobody waited any more.",
            _LABELS,
            registry=None,
        ).labels(model, version)
        self._golden = Counter(
            GOLDEN_CHECKS,
            "Golden predictions of the health check.",
            (*_LABELS, "result"),
            registry=None,
        )
        self._key = (model, version)
        self._lock = threading.Lock()
        self._runs = _Runs()

    def dropped(self, requests: int) -> None:
        with self._lock:
            self._runs.dropped += requests

    def ran(self, *, rows: int, seconds: float) -> None:
        """Adds up until ``flush``; the model may run in any thread."""
        with self._lock:
            runs = self._runs
            runs.compute[bisect_left(COMPUTE_BUCKETS_S, seconds)] += 1
            runs.seconds += seconds
            runs.sizes[bisect_left(BATCH_BUCKETS_ROWS, rows)] += 1
            runs.rows += rows

    def flush(self) -> None:
        with self._lock:
            runs, self._runs = self._runs, _Runs()
        _observe_many(self._compute, runs.compute, runs.seconds)
        _observe_many(self._rows, runs.sizes, runs.rows)
        self._dropped.inc(runs.dropped)

    def failed(self) -> None:
        self._failures.inc()

    def checked_golden(self, passed: bool) -> None:
        self._golden.labels(*self._key, "passed" if passed else "failed").inc()


def _observe_many(histogram: Any, buckets: Sequence[int], total: float) -> None:
    """Add counts that were sorted into a histogram's own buckets already.

    prometheus_client has no public way to do so; observing one by one costs as much as decoding a request.
    """
    for bucket, count in zip(histogram._buckets, buckets, strict=True):  # noqa: SLF001
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)  # noqa: SLF001


class RolloutMetrics:
    """What the control plane's process reports of rollouts, the event log, and itself."""

    def __init__(self) -> None:
        self._turn = _gauge(
            "holdfast_controller_alive_timestamp_seconds",
            "When the control plane last ran its loop, in wall clock seconds.",
            mode="livemax",
        )
        self._writable = _gauge(
            "holdfast_event_log_writable", "1 if the controller writes the event log, 0 if not.", mode="livemax"
        )
        self._events = _gauge("holdfast_event_log_events", "Number of the newest event.", mode="livemax")
        self._phase = _gauge(
            "holdfast_rollout_phase", "1 for the phase of a model's latest rollout.", "model", "version", "phase"
        )
        self._step = _gauge("holdfast_rollout_step", "Steps of the rollout that were begun.", "model")
        self._evidence = _gauge(
            "holdfast_rollout_evidence_ratio",
            "Evidence against the canary, on a scale on which 0 is none and 1 is enough to take it back.",
            "model",
        )
        self._budget = _gauge(
            "holdfast_rollout_budget_left_ratio", "Share of the canary's error budget that isn't used up.", "model"
        )
        self._took = _gauge(
            "holdfast_rollout_rollback_seconds",
            "From the evidence until the last gateway had switched, of the latest rollback.",
            "model",
        )
        self._shown: dict[str, tuple[str, str, str]] = {}

    def show_controller(self, *, wall: float, writable: bool, seq: int) -> None:
        self._turn.set(wall)
        self._writable.set(writable)
        self._events.set(seq)

    def show(
        self,
        model: str,
        version: str,
        *,
        phase: str,
        steps: int,
        evidence: float,
        budget_left: float | None,
        rollback_took_s: float | None,
    ) -> None:
        """One model's latest rollout."""
        key = (model, version, phase)
        if (before := self._shown.get(model)) != key:
            if before is not None:
                self._phase.labels(*before).set(0)
            self._phase.labels(*key).set(1)
            self._shown[model] = key
        self._step.labels(model).set(steps)
        self._evidence.labels(model).set(evidence)
        if budget_left is not None:
            self._budget.labels(model).set(budget_left)
        if rollback_took_s is not None:
            self._took.labels(model).set(rollback_took_s)
