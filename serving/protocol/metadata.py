"""The JSON bodies of everything but inference: server and model metadata, configuration, index, statistics, health.

Shapes follow the Open Inference Protocol v2 and Triton's extensions of it, so that their clients understand them.
All that is said here arrives as plain arguments; where it comes from is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from models.signature import Signature, TensorSpec

EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "parameters", "model_repository", "statistics")
"""The extensions of the protocol that hold in full, by the names that Triton gives them."""

PLATFORMS: Final = {"onnxruntime": "onnxruntime_onnx", "torch": "pytorch_torchexport"}
"""A backend's name as the protocol's ``platform``, ``<project>_<format>``."""

ModelState = Literal["READY", "UNAVAILABLE", "LOADING"]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the repository index; ``reason`` says why it isn't ready."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica: its id and process, and the node that it is on, as Ray names it and by its IP address."""

    id: str
    pid: int
    node: str
    ip: str


@dataclass(frozen=True, slots=True)
class VersionReplicas:
    """The replicas of one version."""

    model: str
    version: str
    replicas: list[Replica]


@dataclass(frozen=True, slots=True)
class Timing:
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class ModelStats:
    """What one version did since start. ``inference_count`` counts rows, ``execution_count`` runs of the model.

    ``last_inference_ms`` is wall-clock time since the epoch, 0 if there was none.
    """

    name: str
    version: str
    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    success: Timing = Timing()
    fail: Timing = Timing()
    queue: Timing = Timing()
    compute_input: Timing = Timing()
    compute_infer: Timing = Timing()
    compute_output: Timing = Timing()
    cache_hit: Timing = Timing()
    cache_miss: Timing = Timing()


def server_metadata(version: str, *, name: str = "holdfast", extensions: Iterable[str] = EXTENSIONS) -> bytes:
    """The body of ``/v2``."""
    return orjson.dumps({"name": name, "version": version, "extensions": list(extensions)})


def live_body(live: bool) -> bytes:
    """The body of ``/v2/health/live``; clients of KServe read it, others only the status."""
    return orjson.dumps({"live": live})


def ready_body(ready: bool) -> bytes:
    """The body of ``/v2/health/ready``."""
    return orjson.dumps({"ready": ready})


def model_ready_body(name: str, ready: bool) -> bytes:
    """The body of ``/v2/models/{name}/ready``."""
    return orjson.dumps({"name": name, "ready": ready})


def model_list(names: Iterable[str]) -> bytes:
    """The body of ``/v2/models``."""
    return orjson.dumps({"models": list(names)})


def model_metadata(name: str, *, versions: Sequence[str], backend: str, signature: Signature) -> bytes:
    """The body of ``/v2/models/{name}``; shapes include the batch dimension."""
    return orjson.dumps(
        {
            "name": name,
            "versions": list(versions),
            "platform": PLATFORMS.get(backend, backend),
            "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
            "outputs": [_tensor_metadata(spec) for spec in signature.outputs],
        }
    )


def model_config(name: str, *, backend: str, signature: Signature, max_batch_size: int) -> bytes:
    """The body of ``/v2/models/{name}/config``, as Triton's ModelConfig message in JSON.

    ``max_batch_size`` counts for a batched model only. As in Triton it is 0 for any other model, and ``dims``
    leave out the batch dimension.
    """
    batch = max(1, max_batch_size) if signature.batched else 0
    return orjson.dumps(
        {
            "name": name,
            "platform": PLATFORMS.get(backend, backend),
            "backend": backend,
            "max_batch_size": batch,
            "input": [_tensor_config(spec, signature.batched) for spec in signature.inputs],
            "output": [_tensor_config(spec, signature.batched) for spec in signature.outputs],
        }
    )


def repository_index(entries: Iterable[IndexEntry], *, ready_only: bool = False) -> bytes:
    """The body of ``/v2/repository/index``."""
    return orjson.dumps([entry for entry in entries if not ready_only or entry.state == "READY"])


def replica_list(versions: Iterable[VersionReplicas]) -> bytes:
    """The body of ``/v2/holdfast/replicas``."""
    return orjson.dumps(list(versions))


def statistics(stats: Iterable[ModelStats]) -> bytes:
    """The body of ``/v2/models/stats`` and of one model's ``stats`` (Triton's statistics extension)."""
    return orjson.dumps({"model_stats": [_stats_entry(each) for each in stats]})


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    datatype = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": datatype, "dims": list(spec.shape[1:] if batched else spec.shape)}


def _stats_entry(stats: ModelStats) -> dict[str, Any]:
    timings = {
        "success": stats.success,
        "fail": stats.fail,
        "queue": stats.queue,
        "compute_input": stats.compute_input,
        "compute_infer": stats.compute_infer,
        "compute_output": stats.compute_output,
        "cache_hit": stats.cache_hit,
        "cache_miss": stats.cache_miss,
    }
    return {
        "name": stats.name,
        "version": stats.version,
        "last_inference": stats.last_inference_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": timings,
        "batch_stats": [],
    }
