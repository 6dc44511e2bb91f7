"""MLServer's custom runtime for the model; adaptive batching is switched on in model-settings.json."""

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Mlp(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MLP_ONNX"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        y = self.session.run(None, {"x": x})[0]
        output = NumpyCodec.encode_output("probabilities", y)
        return InferenceResponse(model_name=self.name, outputs=[output])
