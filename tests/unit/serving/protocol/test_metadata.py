"""The bodies that say what is served, as Triton's and KServe's clients expect them."""

from __future__ import annotations

import json

from models.signature import Signature, TensorSpec
from serving.protocol import metadata
from serving.protocol.metadata import IndexEntry, ModelStats, Timing

SIGNATURE = Signature(
    (TensorSpec("image", "FP32", (-1, 3, 224, 224)), TensorSpec("tag", "BYTES", (-1, 1))),
    (TensorSpec("label", "INT64", (-1,)),),
    batched=True,
)


def test_server() -> None:
    body = json.loads(metadata.server_metadata("0.1.0"))
    assert (body["name"], body["version"]) == ("holdfast", "0.1.0")
    assert {"binary_tensor_data", "statistics", "model_configuration"} <= set(body["extensions"])


def test_health() -> None:
    assert (metadata.live_body(True), metadata.ready_body(False)) == (b'{"live":true}', b'{"ready":false}')
    assert metadata.model_ready_body("m", True) == b'{"name":"m","ready":true}'


def test_model_metadata_shows_the_batch_dimension() -> None:
    body = metadata.model_metadata("digits", versions=["1", "2"], backend="onnxruntime", signature=SIGNATURE)
    assert json.loads(body) == {
        "name": "digits",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, 3, 224, 224]},
            {"name": "tag", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
    }


def test_model_config_leaves_the_batch_dimension_out() -> None:
    body = metadata.model_config("digits", backend="torch", signature=SIGNATURE, max_batch_size=64)
    assert json.loads(body) == {
        "name": "digits",
        "platform": "pytorch_torchexport",
        "backend": "torch",
        "max_batch_size": 64,
        "input": [
            {"name": "image", "data_type": "TYPE_FP32", "dims": [3, 224, 224]},
            {"name": "tag", "data_type": "TYPE_STRING", "dims": [1]},
        ],
        "output": [{"name": "label", "data_type": "TYPE_INT64", "dims": []}],
    }


def test_model_config_of_a_model_without_batches() -> None:
    alone = Signature((TensorSpec("x", "BOOL", (-1, 2)),), (TensorSpec("y", "BF16", (2,)),))
    body = json.loads(metadata.model_config("m", backend="other", signature=alone, max_batch_size=8))
    assert (body["platform"], body["max_batch_size"]) == ("other", 0)
    assert body["input"] == [{"name": "x", "data_type": "TYPE_BOOL", "dims": [-1, 2]}]


def test_repository_index_says_why_a_version_is_not_ready() -> None:
    entries = [IndexEntry("a", "1", "READY"), IndexEntry("a", "2", "UNAVAILABLE", "golden example 0 differs")]
    assert json.loads(metadata.repository_index(entries)) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "a", "version": "2", "state": "UNAVAILABLE", "reason": "golden example 0 differs"},
    ]
    ready = json.loads(metadata.repository_index(entries, ready_only=True))
    assert [entry["version"] for entry in ready] == ["1"]


def test_statistics_have_every_timing_even_if_nothing_happened() -> None:
    busy = ModelStats(
        "a", "1", inference_count=32, execution_count=4, last_inference_ms=1_700_000_000_000, success=Timing(4, 9_000)
    )
    first, second = json.loads(metadata.statistics([busy, ModelStats("a", "2")]))["model_stats"]
    assert first["inference_stats"]["success"] == {"count": 4, "ns": 9_000}
    assert first["last_inference"] == 1_700_000_000_000
    assert second == {
        "name": "a",
        "version": "2",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {
            timing: {"count": 0, "ns": 0}
            for timing in (
                "success",
                "fail",
                "queue",
                "compute_input",
                "compute_infer",
                "compute_output",
                "cache_hit",
                "cache_miss",
            )
        },
        "batch_stats": [],
    }


def test_model_list() -> None:
    assert metadata.model_list(["a", "b"]) == b'{"models":["a","b"]}'
