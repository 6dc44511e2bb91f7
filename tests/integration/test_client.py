"""Triton's own client, unmodified, asks the running system everything it knows to ask."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from models.inference import Array
from models.registry import Registry
from models.zoo.data import digits_split
from models.zoo.orientation import pages
from tests.integration.system import HOST, VERSIONS, System

pytestmark = pytest.mark.integration

DIGITS = (("digits", "v1", 0.90), ("digits", "v2", 0.96), ("digits-lite", "v1", 0.93))
"""With the least share of held-out digits that each reads correctly."""
FORMS = pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])


@pytest.fixture
def client(system: System) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"{HOST}:{system.port}", concurrency=8)
    yield client
    client.close()


def tensor(name: str, array: Array, *, binary: bool = True) -> Any:
    tensor = triton.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def outputs(*names: str, binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_the_server_says_who_it_is_and_that_it_is_ready(client: Any) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "holdfast"
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(metadata["extensions"])
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "v1")
    assert not client.is_model_ready("digits", "v9")
    assert not client.is_model_ready("no-such-model")


def test_models_are_described_as_they_were_published(client: Any) -> None:
    metadata = client.get_model_metadata("digits")
    assert metadata["versions"] == ["v1", "v2"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "label"]
    assert client.get_model_metadata("digits", "v1")["platform"] == "pytorch_torchexport"
    assert client.get_model_metadata("digits", "v2")["platform"] == "onnxruntime_onnx"
    config = client.get_model_config("orientation")
    assert config["max_batch_size"] == 16
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, 224, 224]}]


def test_the_repository_lists_every_version(client: Any) -> None:
    entries = client.get_model_repository_index()
    assert {f"{entry['name']}@{entry['version']}": entry["state"] for entry in entries} == dict.fromkeys(
        VERSIONS, "READY"
    )


def test_statistics_count_what_was_asked(client: Any, system: System) -> None:
    def rows() -> int:
        """Each gateway counts what it answered itself."""
        return sum(entry["inference_count"] for entry in system.stats("digits-lite", "v1"))

    before = rows()
    for _ in range(3):
        client.infer("digits-lite", [tensor("image", np.zeros((5, 64), np.float32))])
    assert rows() == before + 15
    (entry,) = client.get_inference_statistics("digits", "v2")["model_stats"]
    assert (entry["name"], entry["version"]) == ("digits", "v2")
    assert {"success", "fail", "queue", "compute_infer"} <= set(entry["inference_stats"])


@FORMS
@pytest.mark.parametrize(("model", "version", "least"), DIGITS)
def test_held_out_digits_are_read_in_one_batch(
    client: Any, model: str, version: str, least: float, binary: bool
) -> None:
    split = digits_split()
    answer = client.infer(
        model,
        [tensor("image", split.test_images, binary=binary)],
        model_version=version,
        outputs=outputs("probabilities", "label", binary=binary),
        request_id="all-of-them",
    )
    response = answer.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == (model, version, "all-of-them")
    label, probabilities = answer.as_numpy("label"), answer.as_numpy("probabilities")
    assert (label.dtype, probabilities.dtype) == (np.int64, np.float32)
    assert np.mean(label == split.test_labels) >= least
    assert np.array_equal(probabilities.argmax(axis=1), label)


@pytest.mark.parametrize(("model", "version", "least"), DIGITS)
def test_digits_asked_one_by_one_are_answered_as_in_one_batch(
    client: Any, model: str, version: str, least: float
) -> None:
    split = digits_split()
    together = client.infer(model, [tensor("image", split.test_images)], model_version=version)
    answers = [
        client.infer(model, [tensor("image", image[np.newaxis])], model_version=version) for image in split.test_images
    ]
    label = np.concatenate([answer.as_numpy("label") for answer in answers])
    assert np.mean(label == split.test_labels) >= least
    assert np.array_equal(label, together.as_numpy("label"))
    probabilities = np.concatenate([answer.as_numpy("probabilities") for answer in answers])
    assert np.allclose(probabilities, together.as_numpy("probabilities"), atol=1e-5)


def test_requests_that_share_a_batch_each_get_their_own_answer(system: System) -> None:
    images = digits_split().test_images

    def labels(share: Array) -> list[int]:
        client = triton.InferenceServerClient(f"{HOST}:{system.port}")  # a client belongs to one thread
        try:
            return [
                int(client.infer("digits", [tensor("image", image[np.newaxis])]).as_numpy("label")[0])
                for image in share
            ]
        finally:
            client.close()

    together = system.infer("digits", images).json()["outputs"][1]["data"]
    with ThreadPoolExecutor(8) as threads:
        found = [label for share in threads.map(labels, np.array_split(images, 8)) for label in share]
    assert found == together


@FORMS
def test_every_page_is_turned_as_the_model_says(client: Any, system: System, binary: bool) -> None:
    labels = Registry(system.store).manifest("orientation", "v1").labels
    assert labels is not None
    every, found = pages(), []
    for batch in (every, *(page[np.newaxis] for page in every)):
        answer = client.infer(
            "orientation", [tensor("x", batch, binary=binary)], outputs=outputs("fetch_name_0", binary=binary)
        )
        found.append([labels[at] for at in answer.as_numpy("fetch_name_0").argmax(axis=1)])
    assert found == [["0", "90", "180", "270"], ["0"], ["90"], ["180"], ["270"]]


def test_a_model_answers_by_its_stable_version_unless_the_path_names_another(client: Any) -> None:
    image = [tensor("image", np.zeros((1, 64), np.float32))]
    assert client.infer("digits", image).get_response()["model_version"] == "v2"
    assert client.infer("digits", image, model_version="v1").get_response()["model_version"] == "v1"
    with pytest.raises(triton.InferenceServerException, match=r"no version 'v9' loaded") as caught:
        client.infer("digits", image, model_version="v9")
    assert caught.value.status() == "404"


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_both_directions_are_compressed_on_demand(client: Any, system: System, way: str) -> None:
    images = digits_split().test_images
    plain = client.infer("digits", [tensor("image", images)])
    for binary in (True, False):
        packed = client.infer(
            "digits",
            [tensor("image", images, binary=binary)],
            outputs=outputs("probabilities", "label", binary=binary),
            request_compression_algorithm=way,
            response_compression_algorithm=way,
        )
        assert np.allclose(packed.as_numpy("probabilities"), plain.as_numpy("probabilities"), atol=1e-6)
    document = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [450, 64], "data": images.ravel().tolist()}]}
    answer = system.ask("POST", "/v2/models/digits/infer", document, {"Accept-Encoding": way})
    assert answer.headers["content-encoding"] == way
    assert len(answer.body) < len(answer.plain())
    assert np.array_equal(answer.json()["outputs"][1]["data"], plain.as_numpy("label"))


def test_what_is_wrong_with_a_request_reaches_whoever_sent_it(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="input 'image': shape") as caught:
        client.infer("digits", [tensor("image", np.zeros((1, 63), np.float32))])
    assert caught.value.status() == "400"
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("orientation", [tensor("x", pages())], timeout=1)
    assert caught.value.status() == "504"


def test_a_client_unloads_and_loads(client: Any) -> None:
    client.unload_model("digits-lite")
    assert not client.is_model_ready("digits-lite")
    client.load_model("digits-lite")
    assert client.is_model_ready("digits-lite")
    with pytest.raises(triton.InferenceServerException, match="no-such-model"):
        client.load_model("no-such-model")
