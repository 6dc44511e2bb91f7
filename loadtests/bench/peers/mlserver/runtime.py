"""MLServer's custom runtime for all models; adaptive batching is switched on where model-settings.json says so."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceResponse
from onnx_model import IMAGE, Session


class Onnx(MLModel):
    async def load(self):
        self.session = Session(self.name.removesuffix("_single"))
        return True

    async def predict(self, payload):
        tensor = payload.inputs[0]
        if tensor.datatype == "BYTES":
            x = np.frombuffer(Base64Codec.decode_input(tensor)[0], dtype=np.float32).reshape(-1, *IMAGE)
        else:
            x = NumpyCodec.decode_input(tensor).astype(np.float32)
        output = NumpyCodec.encode_output(self.session.output, self.session(x))
        return InferenceResponse(model_name=self.name, outputs=[output])
