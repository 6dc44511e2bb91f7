from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from models.errors import (
    GoldenMismatch,
    IncompatibleRuntime,
    InvalidArtifact,
    InvalidGolden,
    InvalidManifest,
    InvalidName,
    VersionExists,
)
from models.golden import read_examples
from models.inference import Array
from models.loading import load_version
from models.manifest import Manifest, Provenance
from models.publishing import publish_file, seeded_inputs
from models.registry import Registry
from models.signature import Signature, TensorSpec

MakeOnnx = Callable[..., Path]
FLOAT = TensorProto.FLOAT


def golden_file(folder: Path, **arrays: Array) -> Path:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    path = folder / "mine.npz"
    path.write_bytes(buffer.getvalue())
    return path


def ones(rows: int = 1, value: float = 1) -> Array:
    return np.full((rows, 2), value, np.float32)


def test_a_published_file_says_all_about_itself(registry: Registry, sum_onnx: Path) -> None:
    origin = Provenance(source="a notebook", created="2026-01-01T00:00:00Z")
    manifest = publish_file(registry, sum_onnx, "sum", "v1", deterministic=True, labels=["a", "b"], provenance=origin)
    assert registry.verify("sum", "v1") == manifest
    assert manifest.backend == "onnxruntime"
    assert [file.path for file in manifest.files] == ["golden.npz", "model.onnx"]
    assert manifest.artifact == "model.onnx"
    assert manifest.signature.batched
    assert manifest.deterministic
    assert manifest.finite
    assert manifest.labels == ("a", "b")
    assert manifest.provenance == origin
    (example,) = read_examples((registry.directory("sum", "v1") / "golden.npz").read_bytes(), manifest.signature)
    assert np.array_equal(example.outputs[0], example.inputs[0] + example.inputs[1])


def test_the_same_file_again_is_a_no_op_at_another_time(registry: Registry, sum_onnx: Path) -> None:
    first = publish_file(registry, sum_onnx, "m", "v1", provenance=Provenance(created="2026-01-01T00:00:00Z"))
    again = publish_file(registry, sum_onnx, "m", "v1", provenance=Provenance(created="2026-01-02T00:00:00Z"))
    assert again == first


def test_golden_examples_that_are_there_are_kept_if_none_are_given(
    registry: Registry, sum_onnx: Path, tmp_path: Path
) -> None:
    rounded = golden_file(tmp_path, a=ones(), b=ones(), y=ones(value=2.00001))
    first = publish_file(registry, sum_onnx, "m", "v1", golden=rounded)
    assert publish_file(registry, sum_onnx, "m", "v1") == first


def test_another_file_under_the_same_name_is_refused(registry: Registry, sum_onnx: Path, double_pt2: Path) -> None:
    publish_file(registry, sum_onnx, "m", "v1")
    with pytest.raises(VersionExists):
        publish_file(registry, double_pt2, "m", "v1")
    with pytest.raises(VersionExists):
        publish_file(registry, sum_onnx, "m", "v1", deterministic=True)


def test_given_golden_examples_must_be_met(registry: Registry, sum_onnx: Path, tmp_path: Path) -> None:
    wrong = golden_file(tmp_path, a=ones(), b=ones(), y=ones(value=2.5))
    with pytest.raises(GoldenMismatch, match=r"2\.5 was expected"):
        publish_file(registry, sum_onnx, "m", "v1", golden=wrong)
    publish_file(registry, sum_onnx, "m", "v1", golden=wrong, absolute_tolerance=0.5)
    load_version(registry, "m", "v1")


def test_golden_examples_may_be_json(registry: Registry, sum_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    tensor = '{{"name": "{}", "datatype": "FP32", "shape": [1, 2], "data": [{}, {}]}}'
    inputs = ", ".join([tensor.format("a", 1, 2), tensor.format("b", 3, 4)])
    path.write_text(f'{{"inputs": [{inputs}], "outputs": [{tensor.format("y", 4, 6)}]}}')
    publish_file(registry, sum_onnx, "m", "v1", golden=path)
    path.write_text(f'{{"inputs": [{inputs}], "outputs": [{tensor.format("y", 4, 7)}]}}')
    with pytest.raises(GoldenMismatch):
        publish_file(registry, sum_onnx, "m", "v2", golden=path)


def test_outputs_of_given_inputs_are_recorded(registry: Registry, sum_onnx: Path) -> None:
    manifest = publish_file(registry, sum_onnx, "m", "v1", golden=[{"b": ones(), "a": ones(value=2)}])
    (example,) = read_examples((registry.directory("m", "v1") / "golden.npz").read_bytes(), manifest.signature)
    assert example.outputs[0].tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([], "no golden example"),
        ([{"a": ones()}], r"\['a'\] where the model has \['a', 'b'\]"),
        ([{"a": ones().astype(np.float64), "b": ones()}], "'a' is float64, and FP32 needs float32"),
        ([{"a": ones(2), "b": ones(1)}], "same number of rows"),
        ([{"a": ones(value=np.inf), "b": ones()}], "isn't finite"),
    ],
)
def test_golden_inputs_that_do_not_fit_are_refused(
    registry: Registry, sum_onnx: Path, inputs: list[dict[str, Array]], text: str
) -> None:
    with pytest.raises(InvalidGolden, match=text):
        publish_file(registry, sum_onnx, "m", "v1", golden=inputs)
    assert registry.versions() == []


def test_a_model_that_may_give_infinity_says_so(registry: Registry, sum_onnx: Path) -> None:
    manifest = publish_file(
        registry, sum_onnx, "m", "v1", golden=[{"a": ones(value=np.inf), "b": ones()}], finite=False
    )
    assert not manifest.finite


def test_a_batch_whose_rows_influence_each_other_is_no_batch(registry: Registry, make_onnx: MakeOnnx) -> None:
    tensors = [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])]
    path = make_onnx([("ReduceMean", ["x"], ["m"]), ("Sub", ["x", "m"], ["y"])], *tensors)
    assert not publish_file(registry, path, "centred", "v1").signature.batched
    load_version(registry, "centred", "v1")


def test_external_data_comes_along(registry: Registry, tmp_path: Path) -> None:
    from onnx import helper, numpy_helper, save

    weight = numpy_helper.from_array(np.full((2,), 5, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "external", [x], [y], [weight])
    path = tmp_path / "external.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(InvalidArtifact, match=r"external\.onnx"):
        publish_file(registry, path, "m", "v1")
    manifest = publish_file(registry, path, "m", "v1", extra_files=[tmp_path / "weights.bin"])
    assert [file.path for file in manifest.files] == ["golden.npz", "model.onnx", "weights.bin"]
    assert load_version(registry, "m", "v1").run({"x": ones()})[0].tolist() == [[6, 6]]


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "golden.npz", "manifest.json"])
def test_an_extra_file_takes_no_other_files_place(
    registry: Registry, tmp_path: Path, sum_onnx: Path, make_onnx: MakeOnnx, name: str
) -> None:
    tensors = [("x", FLOAT, ["n", 2])], [("y", FLOAT, ["n", 2])]
    extra = make_onnx([("Neg", ["x"], ["y"])], *tensors).rename(tmp_path / name)
    path = shutil.copyfile(sum_onnx, tmp_path / "tried.onnx")
    with pytest.raises(InvalidArtifact, match=f"^extra file '{re.escape(name)}': a version has a file of its own"):
        publish_file(registry, path, "m", "v1", extra_files=[extra])
    assert registry.versions() == []


def test_labels_have_to_be_as_many_as_the_classes(registry: Registry, sum_onnx: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"labels: 3 where the model's outputs have \[2\] classes"):
        publish_file(registry, sum_onnx, "m", "v1", labels=["a", "b", "c"])


def test_a_file_that_cannot_be_published_says_why(registry: Registry, tmp_path: Path, make_onnx: MakeOnnx) -> None:
    with pytest.raises(InvalidArtifact, match=r"there is no file '.*nowhere\.onnx'"):
        publish_file(registry, tmp_path / "nowhere.onnx", "m", "v1")
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(b"\x80\x04N.")
    with pytest.raises(InvalidArtifact, match=r"'model\.pkl' doesn't end in \.onnx or \.pt2"):
        publish_file(registry, pickled, "m", "v1")
    disguised = pickled.rename(tmp_path / "model.pt2")
    with pytest.raises(InvalidArtifact, match=r"'model\.pt2' isn't a \.pt2 archive"):
        publish_file(registry, disguised, "m", "v1")
    newer = make_onnx([("Abs", ["a"], ["y"])], [("a", FLOAT, [1])], [("y", FLOAT, [1])], ir_version=99)
    with pytest.raises(IncompatibleRuntime, match="IR version 99"):
        publish_file(registry, newer, "m", "v1")
    with pytest.raises(InvalidName, match="version 'V1'"):
        publish_file(registry, newer, "m", "V1")
    assert registry.versions() == []


def test_a_golden_file_that_is_not_there_is_named(registry: Registry, sum_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidGolden, match=r"nowhere\.npz"):
        publish_file(registry, sum_onnx, "m", "v1", golden=tmp_path / "nowhere.npz")


def test_a_model_that_cannot_run_made_up_inputs_asks_for_golden_examples(
    registry: Registry, make_onnx: MakeOnnx
) -> None:
    tensors = [("x", FLOAT, ["n", "k"]), ("w", FLOAT, [3, 2])], [("y", FLOAT, ["n", 2])]
    path = make_onnx([("MatMul", ["x", "w"], ["y"])], *tensors)
    with pytest.raises(InvalidGolden, match="--golden"):
        publish_file(registry, path, "m", "v1")


def test_made_up_inputs_fit_every_datatype_and_are_always_the_same() -> None:
    from models.golden import Example, example_fault
    from models.inference import DATATYPES

    specs = tuple(TensorSpec(name, name, (-1, 3, -1)) for name in DATATYPES)
    signature = Signature(specs, specs, batched=True)
    inputs = seeded_inputs(signature)
    assert example_fault(Example(tuple(inputs.values()), tuple(inputs.values())), signature) is None
    assert {array.shape for array in inputs.values()} == {(3, 3, 8)}
    again = seeded_inputs(signature)
    assert all(inputs[name].tolist() == again[name].tolist() for name in DATATYPES)


def test_a_manifest_is_the_same_wherever_the_file_was(registry: Registry, sum_onnx: Path, tmp_path: Path) -> None:
    other = tmp_path / "other name.onnx"
    other.write_bytes(sum_onnx.read_bytes())
    manifest: Manifest = publish_file(registry, sum_onnx, "m", "v1")
    assert publish_file(registry, other, "m", "v1") == manifest
