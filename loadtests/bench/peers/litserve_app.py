"""LitServe: one worker for each model, one API server. Batching for the tiny model, up to 64 requests in a batch."""

import os
import sys
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body
from onnx_model import IMAGE, Session


class Single(litserve.LitAPI):
    """One request at a time."""

    model = ""

    def setup(self, device):
        self.session = Session(self.model)

    def decode_request(self, request):
        tensor = request["inputs"][0]
        return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])

    def predict(self, x):
        return self.session(x)

    def encode_response(self, output):
        tensor = {"name": self.session.output, "datatype": "FP32", "shape": list(output.shape)}
        return {"model_name": self.model, "outputs": [tensor | {"data": output.ravel().tolist()}]}


class MlpSingle(Single):
    model = "mlp"


class Mlp(MlpSingle):
    def batch(self, inputs):
        return np.concatenate(inputs)

    def unbatch(self, output):
        return [output[row : row + 1] for row in range(len(output))]


class Wide(Single):
    model = "wide"


class Orientation(Single):
    model = "orientation"

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        return np.frombuffer(request, dtype=np.float32).reshape(-1, *IMAGE)


def main(single):
    mlp = MlpSingle(api_path="/mlp") if single else Mlp(max_batch_size=64, batch_timeout=0.001, api_path="/mlp")
    server = litserve.LitServer(
        [mlp, Wide(api_path="/wide"), Orientation(api_path="/orientation")],
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main("--single" in sys.argv)
