"""The same ONNX Runtime session for every peer: one thread, on the CPU. Needs nothing but numpy and onnxruntime."""

import os
from pathlib import Path

import onnxruntime

IMAGE = (3, 224, 224)


class Session:
    """`MODELS_DIR` in the environment is where the models are."""

    def __init__(self, name):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(os.environ["MODELS_DIR"], f"{name}.onnx")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.output = self._session.get_outputs()[0].name

    def __call__(self, x):
        return self._session.run([self.output], {"x": x})[0]
