"""The bad versions of the rollout proofs are bad in the way that they say, and only in that way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from loadtests.rollouts import artifacts
from loadtests.rollouts.artifacts import Images
from loadtests.rollouts.store import (
    BETTER,
    GOLDEN_BROKEN,
    MADE,
    MODEL,
    answers_of,
    digit_images,
    known_answers,
    make_store,
)
from models.errors import GoldenMismatch, InferenceFailed
from models.loading import LoadedVersion, load_version
from models.registry import Registry

IMAGES: Images = digit_images()[0][:200]


@pytest.fixture(scope="module")
def store(zoo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every version, published as a run publishes them."""
    store = tmp_path_factory.mktemp("run") / "models"
    asyncio.run(make_store(zoo_store, store, [*MADE, GOLDEN_BROKEN], digit_images()[0]))
    return store


def loaded(store: Path, version: str) -> LoadedVersion:
    return load_version(Registry(store), MODEL, version)


def right(store: Path) -> Images:
    return answers_of(store / MODEL / BETTER / "model.onnx", IMAGES).probabilities


def test_about_so_many_images_are_unlucky_as_are_asked_for() -> None:
    images, _ = digit_images()
    assert artifacts.unlucky(images, 30).mean() == pytest.approx(0.3, abs=0.03)
    assert artifacts.unlucky(images, 50).mean() == pytest.approx(0.5, abs=0.03)


def test_one_version_raises_on_the_unlucky_images_and_is_right_on_the_others(store: Path) -> None:
    model, wanted = loaded(store, "fails-30"), right(store)
    for image, unlucky in enumerate(artifacts.unlucky(IMAGES, 30)):
        if unlucky:
            with pytest.raises(InferenceFailed):
                model.run({"image": IMAGES[image : image + 1]})
        else:
            assert np.allclose(model.run({"image": IMAGES[image : image + 1]})[0], wanted[image], atol=1e-5)


def test_one_version_answers_nan_to_the_unlucky_images_and_is_right_on_the_others(store: Path) -> None:
    given = loaded(store, "nan-50").run({"image": IMAGES})[0]
    unlucky = artifacts.unlucky(IMAGES, 50)
    assert np.isnan(given[unlucky]).all()
    assert np.allclose(given[~unlucky], right(store)[~unlucky], atol=1e-5)


def test_one_version_gives_the_next_digit_for_the_unlucky_images_and_nothing_but_that_tells(store: Path) -> None:
    probabilities, label = loaded(store, "mixes-up").run({"image": IMAGES})
    wanted = answers_of(store / MODEL / BETTER / "model.onnx", IMAGES)
    unlucky = artifacts.unlucky(IMAGES, 30)
    assert (label[unlucky] == (wanted.label[unlucky] + 1) % 10).all()
    assert (probabilities.argmax(axis=1) == label).all()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (label[~unlucky] == wanted.label[~unlucky]).all()
    assert np.allclose(probabilities[~unlucky], wanted.probabilities[~unlucky], atol=1e-5)


def test_the_slow_version_is_right_and_its_work_cant_be_done_once_for_all(store: Path) -> None:
    assert np.allclose(loaded(store, "slow-10x").run({"image": IMAGES})[0], right(store), atol=1e-5)
    from onnx import load

    graph = load(store / MODEL / "slow-10x" / "model.onnx").graph
    (loop,) = [node for node in graph.node if node.op_type == "Loop"]
    (start,) = [node for node in graph.node if loop.input[2] in node.output]
    assert "brightest" in start.input, "else the matrices could be multiplied when the model is loaded"


@pytest.mark.parametrize("version", ["crashes", "late"])
def test_versions_that_the_run_makes_bad_are_good_by_themselves(store: Path, version: str) -> None:
    assert np.allclose(loaded(store, version).run({"image": IMAGES})[0], right(store), atol=1e-5)


def test_all_of_them_speak_the_signature_of_the_better_version_and_are_batched(store: Path) -> None:
    registry = Registry(store)
    better = registry.manifest(MODEL, BETTER)
    for version in (*MADE, GOLDEN_BROKEN):
        manifest = registry.manifest(MODEL, version)
        assert manifest.signature == better.signature
        assert manifest.deterministic
        assert manifest.digest != better.digest


def test_only_running_it_tells_that_golden_examples_dont_hold(store: Path) -> None:
    Registry(store).verify(MODEL, GOLDEN_BROKEN)
    with pytest.raises(GoldenMismatch, match="'label' is"):
        loaded(store, GOLDEN_BROKEN)


def test_what_good_versions_answer_is_known_by_their_names(store: Path) -> None:
    known = known_answers(store, ["v2", "late"], IMAGES)
    assert set(known) == {"digits@v2", "digits@late"}
    assert len(known["digits@late"]) == len(IMAGES)
    assert known["digits@v2"][7]["probabilities"] == pytest.approx(right(store)[7])
    assert known["digits@v2"][7]["label"] == [float(right(store)[7].argmax())]
