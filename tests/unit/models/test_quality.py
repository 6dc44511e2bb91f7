"""What a manifest may say of its inputs' values, and that versions which say nothing are what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.commands import read_quality
from models.errors import InvalidManifest
from models.manifest import FileDigest, Golden, Manifest
from models.quality import FeatureQuality, InputQuality
from models.signature import Signature, TensorSpec

INPUTS = (
    TensorSpec("x", "FP32", (-1, 2)),
    TensorSpec("n", "INT64", (-1,)),
    TensorSpec("any", "FP32", (-1, -1)),
    TensorSpec("text", "BYTES", (-1, 2)),
    TensorSpec("flag", "BOOL", (-1,)),
)
SIGNATURE = Signature(INPUTS, (TensorSpec("y", "FP32", (-1,)),), batched=True)


def manifest(*quality: InputQuality) -> Manifest:
    files = (FileDigest("golden.npz", "0" * 64, 1), FileDigest("model.onnx", "1" * 64, 1))
    return Manifest(
        model="m",
        version="v1",
        backend="onnxruntime",
        files=files,
        signature=SIGNATURE,
        golden=Golden("golden.npz"),
        quality=quality,
    )


def test_a_manifest_without_it_has_the_bytes_and_the_digest_that_it_had() -> None:
    assert "quality" not in json.loads(manifest().to_bytes())


def test_it_comes_back_and_is_part_of_the_identity_but_not_of_the_signatures() -> None:
    feature = FeatureQuality(name="b", allow_missing=True)
    entry = InputQuality(input="x", min=0, max=1, features=(FeatureQuality(name="a", max=0.5), feature))
    made = manifest(entry)
    assert Manifest.from_bytes(made.to_bytes()) == made
    assert made.digest != manifest().digest
    assert made.signature_digest == manifest().signature_digest


def features(*names: str) -> tuple[FeatureQuality, ...]:
    return tuple(FeatureQuality(name=name) for name in names)


@pytest.mark.parametrize(
    ("quality", "says"),
    [
        ([InputQuality(input="z")], r"quality\[0\].input: the model has no input 'z'"),
        ([InputQuality(input="x"), InputQuality(input="x")], r"quality\[1\].input: 'x' stands there twice"),
        ([InputQuality(input="text")], "'text' holds BYTES, which has no range"),
        ([InputQuality(input="flag")], "'flag' holds BOOL, which has no range"),
        ([InputQuality(input="x", features=features("a"))], "features: 1 where 'x' has 2"),
        ([InputQuality(input="x", features=features("a", "a"))], "every one needs a name of its own"),
        ([InputQuality(input="any", features=features("a"))], "the last dimension of 'any' isn't one of features"),
        ([InputQuality(input="n", features=features("a"))], "the last dimension of 'n' isn't one of features"),
        ([InputQuality(input="x", min=2, max=1)], r"quality\[0\].min: 2 of 'x' is above max 1"),
        ([InputQuality(input="x", max=float("inf"))], "max: inf of 'x' isn't a finite number"),
        (
            [InputQuality(input="x", max=1, features=(FeatureQuality(name="a", min=2), *features("b")))],
            "2 of 'x.a' is above max 1",
        ),
    ],
)
def test_what_can_not_be_said_of_the_inputs_is_refused(quality: list[InputQuality], says: str) -> None:
    with pytest.raises(InvalidManifest, match=says):
        manifest(*quality)


def test_a_file_of_ranges_is_a_list_of_inputs(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_text('[{"input": "x", "min": 0, "features": [{"name": "a"}, {"name": "b", "max": 9}]}]')
    b = FeatureQuality(name="b", max=9)
    assert read_quality(path) == (InputQuality(input="x", min=0, features=(*features("a"), b)),)


@pytest.mark.parametrize("text", ["{}", '[{"input": "x", "minimum": 0}]', "[", b"\xff"])
def test_another_file_is_refused_by_its_name(tmp_path: Path, text: Any) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidManifest, match=r"'ranges\.json': "):
        read_quality(path)


def test_people_read_it_in_a_few_words() -> None:
    entry = InputQuality(input="x", min=0, max=16)
    assert entry.text() == "x: at least 0, at most 16, never missing"
    assert InputQuality(input="x", allow_missing=True).text() == "x: may be missing"
    assert InputQuality(input="x", features=features("a", "b")).text() == "x: 2 features, each with a range"
    assert msgspec.to_builtins(entry) == {"input": "x", "min": 0.0, "max": 16.0}


def test_a_bound_is_the_same_however_it_is_written() -> None:
    assert manifest(InputQuality(input="x", min=0)).digest == manifest(InputQuality(input="x", min=0.0)).digest
