"""Ray Serve without Holdfast. Serves until SIGTERM.

Started three times. With default settings, and with Ray's throughput settings (environment variables, --tuned): a
gateway deployment calls a deployment for each model. With --single besides: one deployment that does all itself.
"""

import argparse
import signal
import threading

import ray
from onnx_model import Session
from protocol import HEADER, read, write
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

MODELS = ("mlp", "wide", "orientation")
SMALL = {"num_cpus": 0.1}


@serve.deployment(max_ongoing_requests=200, num_replicas=1, ray_actor_options=SMALL)
class Model:
    def __init__(self, name):
        self.session = Session(name)

    async def __call__(self, x):
        return self.session(x)


@serve.deployment(max_ongoing_requests=500, ray_actor_options=SMALL)
class Gateway:
    def __init__(self, **models):
        self.models = models

    async def __call__(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        x = read(await request.body(), request.headers.get(HEADER))
        y = await self.models[name].remote(x)
        return Response(write(name, "y", y), media_type="application/json")


@serve.deployment(max_ongoing_requests=500, ray_actor_options=SMALL)
class Single:
    def __init__(self):
        self.sessions = {name: Session(name) for name in MODELS}

    async def __call__(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        x = read(await request.body(), request.headers.get(HEADER))
        return Response(write(name, "y", self.sessions[name](x)), media_type="application/json")


def application(*, tuned, single):
    # Tuned: no record is built for each request. No serve.batch: see lineup.py.
    logs = {"enable_access_log": False, "log_level": "WARNING"} if tuned else None
    if single:
        return Single.options(logging_config=logs).bind()
    models = {name: Model.options(name=name, logging_config=logs).bind(name) for name in MODELS}
    return Gateway.options(logging_config=logs).bind(**models)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--temp-dir", required=True)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--single", action="store_true")
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    ray.init(address="local", include_dashboard=False, _temp_dir=arguments.temp_dir)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    app = application(tuned=arguments.tuned, single=arguments.single)
    serve.run(app, name="bench", route_prefix="/")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
