"""Three classifiers of handwritten digits that share one signature: a fair one, a better one and a small one.

Input ``image`` FP32 [-1, 64] (``models.zoo.data.digits_split``), outputs ``probabilities`` FP32 [-1, 10] and
``label`` INT64 [-1]. All are trained on one thread from fixed seeds, so that the same packages give the same files.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.backends.pt2_archive import data_only
from models.inference import Array
from models.zoo.data import DIGIT_LABELS, Split

_SEED = 20
_PIXELS = 64
_CLASSES = len(DIGIT_LABELS)


def make_v1(split: Split, folder: Path) -> Path:
    """A torch network with one small hidden layer, exported as ``.pt2`` with a variable batch."""
    import torch

    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        layers = torch.nn.Sequential(torch.nn.Linear(_PIXELS, 16), torch.nn.ReLU(), torch.nn.Linear(16, _CLASSES))
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layers(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _export(layers, folder)


def make_v2(split: Split, folder: Path) -> Path:
    """A scikit-learn perceptron with a wider hidden layer, as ONNX."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((96,), alpha=1e-3, batch_size=64, learning_rate_init=3e-3, max_iter=40, random_state=_SEED)
    model.n_iter_no_change = model.max_iter  # a fixed number of rounds, without a warning that it might go on
    _fit(model, split)
    return _write_onnx(list(zip(model.coefs_, model.intercepts_, strict=True)), folder / "digits-v2.onnx")


def make_lite(split: Split, folder: Path) -> Path:
    """A logistic regression, as ONNX."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=200)
    _fit(model, split)
    return _write_onnx([(model.coef_.T, model.intercept_)], folder / "digits-lite.onnx")


def _fit(model: Any, split: Split) -> None:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of rounds is chosen, see above
        model.fit(split.train_images, split.train_labels)


def _export(layers: Any, folder: Path) -> Path:
    import torch

    class Digits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            probabilities = torch.softmax(self.layers(image), dim=-1)
            return {"probabilities": probabilities, "label": probabilities.argmax(dim=-1)}

    example = torch.zeros(2, _PIXELS)
    exported = torch.export.export(
        Digits().eval(), (example,), dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}}
    )
    path = folder / "digits-v1.pt2"
    torch.export.save(exported, path)
    # Without example inputs and source locations: those hold paths of the machine that made the file.
    path.write_bytes(data_only(path))
    return path


def _write_onnx(layers: Sequence[tuple[Array, Array]], path: Path) -> Path:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes, weights, current = [], [], "image"
    for index, (weight, bias) in enumerate(layers):
        if index:
            nodes.append(helper.make_node("Relu", [current], [f"relu_{index}"]))
            current = f"relu_{index}"
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"weight_{index}"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"bias_{index}"))
        nodes.append(helper.make_node("Gemm", [current, f"weight_{index}", f"bias_{index}"], [f"gemm_{index}"]))
        current = f"gemm_{index}"
    nodes.append(helper.make_node("Softmax", [current], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", _PIXELS])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", _CLASSES]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="holdfast"
    )
    checker.check_model(model)
    save(model, path)
    return path
