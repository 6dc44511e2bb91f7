"""LitServe: one worker for each model, one API server. Batching for the tiny model, up to 64 requests in a batch."""

import argparse
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


def main(arguments):
    mlp = Mlp(max_batch_size=64, batch_timeout=0.001, api_path="/mlp")
    server = litserve.LitServer(
        [
            MlpSingle(api_path="/mlp") if arguments.single else mlp,
            Wide(api_path="/wide"),
            Orientation(api_path="/orientation"),
        ],
        accelerator="cpu",
        workers_per_device=arguments.workers,
        fast_queue=arguments.fast_queue,
    )
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=arguments.servers,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--single", action="store_true", help="no batching")
    parser.add_argument("--servers", type=int, default=1, help="processes that speak HTTP")
    parser.add_argument("--workers", type=int, default=1, help="processes for each model")
    parser.add_argument("--fast-queue", action="store_true", help="ZeroMQ between them")
    main(parser.parse_args())
