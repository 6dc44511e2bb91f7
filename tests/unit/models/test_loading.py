from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.errors import (
    ArtifactCorrupt,
    GoldenMismatch,
    IncompatibleRuntime,
    InvalidArtifact,
    InvalidGolden,
    VersionNotFound,
)
from models.golden import Example, write_examples
from models.inference import Array
from models.loading import LoadedVersion, load_version
from models.manifest import FileDigest, Manifest, digest_of
from models.publishing import publish_file
from models.registry import Registry


def replaced(registry: Registry, name: str, raw: bytes) -> None:
    """Publishes ``m@v2``: ``m@v1`` with other bytes in one file, rightly described by its manifest."""
    manifest = registry.manifest("m", "v1")
    directory = registry.directory("m", "v1")
    files: dict[str, Path | bytes] = {file.path: directory / file.path for file in manifest.files}
    digest = FileDigest(name, digest_of(raw).removeprefix("sha256:"), len(raw))
    digests = tuple(digest if file.path == name else file for file in manifest.files)
    registry.publish(msgspec.structs.replace(manifest, version="v2", files=digests), {**files, name: raw})


@pytest.fixture
def published(registry: Registry, sum_onnx: Path) -> Manifest:
    return publish_file(registry, sum_onnx, "m", "v1")


@pytest.mark.parametrize("artifact", ["sum_onnx", "double_pt2"])
def test_a_published_version_loads_and_answers(
    registry: Registry, artifact: str, request: pytest.FixtureRequest
) -> None:
    manifest = publish_file(registry, request.getfixturevalue(artifact), "m", "v1")
    loaded = load_version(registry, "m", "v1", threads=1)
    assert loaded.manifest == manifest
    two = {spec.name: np.full((1, spec.shape[1]), 2, np.float32) for spec in manifest.signature.inputs}
    assert loaded.run(two)[0].ravel().tolist() == [4] * manifest.signature.inputs[0].shape[1]
    loaded.check_golden()


def test_a_version_that_is_not_there_is_not_found(registry: Registry) -> None:
    with pytest.raises(VersionNotFound):
        load_version(registry, "m", "v1")


@pytest.mark.usefixtures("published")
def test_a_changed_artifact_is_not_loaded(registry: Registry) -> None:
    path = registry.directory("m", "v1") / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactCorrupt, match=r"'model\.onnx'"):
        load_version(registry, "m", "v1")


@pytest.mark.usefixtures("published")
def test_an_artifact_for_a_newer_runtime_is_not_loaded(registry: Registry, make_onnx: Callable[..., Path]) -> None:
    newer = make_onnx([("Abs", ["a"], ["y"])], [("a", 1, [1])], [("y", 1, [1])], opsets=[("", 999)])
    replaced(registry, "model.onnx", newer.read_bytes())
    with pytest.raises(IncompatibleRuntime, match=r"ai\.onnx 999"):
        load_version(registry, "m", "v2")


@pytest.mark.usefixtures("published")
def test_an_artifact_that_is_no_model_is_not_loaded(registry: Registry) -> None:
    replaced(registry, "model.onnx", b"\x80\x04N.")
    with pytest.raises(InvalidArtifact):
        load_version(registry, "m", "v2")


@pytest.mark.usefixtures("published")
def test_golden_examples_that_cannot_be_read_stop_a_version(registry: Registry) -> None:
    replaced(registry, "golden.npz", b"\x80\x04N.")
    with pytest.raises(InvalidGolden, match="m@v2"):
        load_version(registry, "m", "v2")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("wrong", [0, 1])
def test_any_golden_example_that_is_not_met_stops_a_version(registry: Registry, wrong: int) -> None:
    ones: Array = np.ones((1, 2), np.float32)
    examples = [Example((ones, ones), (ones * (3 if at == wrong else 2),)) for at in range(2)]
    replaced(registry, "golden.npz", write_examples(examples, registry.manifest("m", "v1").signature))
    with pytest.raises(GoldenMismatch, match=r"m@v2: .*'y' is 2\.0 at \[0, 0\] where 3\.0 was expected"):
        load_version(registry, "m", "v2")


def test_the_health_check_notices_a_model_that_has_gone_wrong(published: Manifest) -> None:
    class Moody:
        answer = 2.0

        def run(self, inputs: Any) -> list[Array]:
            return [np.full((1, 2), self.answer, np.float32)]

    moody, ones = Moody(), np.ones((1, 2), np.float32)
    loaded = LoadedVersion(published, moody, (Example((ones, ones), (2 * ones,)),))
    loaded.check_golden()
    moody.answer = float("nan")
    with pytest.raises(GoldenMismatch, match="m@v1"):
        loaded.check_golden()


def test_importing_models_imports_no_runtime() -> None:
    code = """
import sys
import models, models.commands, models.golden, models.loading, models.manifest, models.publishing, models.registry
import models.zoo.build, models.zoo.data
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted({"torch", "onnxruntime", "onnx", "sklearn", "cv2", "serving"} & loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
