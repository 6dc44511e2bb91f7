"""BentoML with adaptive batching on: one worker, up to 64 requests in a batch. The answer is a list of one."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Mlp:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MLP_ONNX"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(route="/infer", batchable=True, max_batch_size=64, max_latency_ms=1000)
    def infer(self, inputs: list[dict]) -> list[dict]:
        x = np.array([tensor["data"] for tensor in inputs], dtype=np.float32)
        y = self.session.run(None, {"x": x})[0]
        names = {"name": "probabilities", "datatype": "FP32", "shape": [1, y.shape[1]]}
        return [{"model_name": "mlp", "outputs": [names | {"data": row.tolist()}]} for row in y]
