"""Every metric of Holdfast, by name. ``docs/metrics.md`` explains them.

All processes of a node write to one folder (prometheus_client's multiprocess mode), so that whichever gateway is
asked for ``/metrics`` answers for all gateways and model replicas of the node. ``open_metrics`` must be called
before anything else in the process imports prometheus_client. Not here: what is counted when.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from serving.request.lane import Lane
    from serving.request.record import Tally

LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COMPUTE_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BATCH_BUCKETS_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

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


class GatewayMetrics:
    """What a gateway process reports."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._requests = Counter(
            "holdfast_requests_total", "Inference requests by how they ended.", (*_LABELS, "outcome"), registry=None
        )
        self._duration = Histogram(
            "holdfast_request_duration_seconds",
            "From a request's arrival in the gateway to its encoded answer.",
            _LABELS,
            buckets=LATENCY_BUCKETS_S,
            registry=None,
        )
        self._waiting = Gauge(
            "holdfast_lane_waiting_requests",
            "Requests that wait in the gateways for a replica.",
            _LABELS,
            multiprocess_mode="livesum",
            registry=None,
        )
        self._inflight = Gauge(
            "holdfast_lane_inflight_batches",
            "Batches that replicas are working on.",
            _LABELS,
            multiprocess_mode="livesum",
            registry=None,
        )
        self._channels = Gauge(
            "holdfast_live_channels",
            "Tensor channels from gateways to live replicas.",
            _LABELS,
            multiprocess_mode="livesum",
            registry=None,
        )
        self._generation = Gauge(
            "holdfast_routing_table_generation",
            "Generation of the routing table in force, the oldest of all gateways.",
            multiprocess_mode="livemin",
            registry=None,
        )

    def add_requests(self, key: tuple[str, str], tally: Tally) -> None:
        for outcome, count in tally.outcomes.items():
            self._requests.labels(*key, outcome).inc(count)
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
            "holdfast_golden_checks_total",
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
