"""LitServe with batching on: one worker, one API server, up to 64 requests in a batch."""

import os

import litserve
import numpy as np
import onnxruntime


class Mlp(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MLP_ONNX"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        tensor = request["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]

    def unbatch(self, output):
        return [output[row : row + 1] for row in range(len(output))]

    def encode_response(self, output):
        tensor = {"name": "probabilities", "datatype": "FP32", "shape": list(output.shape)}
        return {"model_name": "mlp", "outputs": [tensor | {"data": output.ravel().tolist()}]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Mlp(max_batch_size=64, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=1,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
