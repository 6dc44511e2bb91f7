"""Ray Serve without Holdfast: a gateway deployment calls a model deployment. Serves until SIGTERM.

Started twice: with default settings, and with Ray's throughput settings, which are environment variables and --quiet.
"""

import argparse
import os
import signal
import threading

import numpy as np
import onnxruntime
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=200, num_replicas=1, ray_actor_options={"num_cpus": 0.1})
class Model:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MLP_ONNX"], options, providers=["CPUExecutionProvider"])

    async def __call__(self, x):
        return self.session.run(None, {"x": x})[0]


@serve.deployment(max_ongoing_requests=500, ray_actor_options={"num_cpus": 0.1})
class Gateway:
    def __init__(self, model):
        self.model = model

    async def __call__(self, request: Request) -> Response:
        tensor = orjson.loads(await request.body())["inputs"][0]
        x = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
        y = await self.model.remote(x)
        output = {"name": "probabilities", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel()}
        body = orjson.dumps({"model_name": "mlp", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--temp-dir", required=True)
    parser.add_argument("--quiet", action="store_true", help="no record is built for each request")
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    ray.init(address="local", include_dashboard=False, _temp_dir=arguments.temp_dir)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    logs = {"enable_access_log": False, "log_level": "WARNING"} if arguments.quiet else None
    model = Model.options(logging_config=logs).bind()
    serve.run(Gateway.options(logging_config=logs).bind(model), name="mlp", route_prefix="/")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
