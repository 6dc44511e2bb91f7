"""BentoML, with $WORKERS workers. Adaptive batching for the tiny model, up to 64 requests; its answer is a list of one.

Images come through a mounted ASGI application, for the API's own file input writes every request to a disk first.
"""

import os

import bentoml
import numpy as np
from onnx_model import Session
from protocol import HEADER, read, write
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_IMAGES = {}


async def _orientation(request: Request) -> Response:
    session = _IMAGES["session"]
    y = session(read(await request.body(), request.headers.get(HEADER)))
    return Response(write("orientation", session.output, y), media_type="application/json")


def _document(model, session, y):
    tensor = {"name": session.output, "datatype": "FP32", "shape": list(y.shape), "data": y.ravel().tolist()}
    return {"model_name": model, "outputs": [tensor]}


@bentoml.service(
    workers=int(os.environ["WORKERS"]),
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    monitoring={"enabled": False},
)
@bentoml.asgi_app(Starlette(routes=[Route("/orientation", _orientation, methods=["POST"])]))
class Onnx:
    def __init__(self):
        self.mlp_session = Session("mlp")
        self.wide_session = Session("wide")
        _IMAGES["session"] = Session("orientation")

    @bentoml.api(route="/mlp", batchable=True, max_batch_size=64, max_latency_ms=1000)
    def mlp(self, inputs: list[dict]) -> list[dict]:
        y = self.mlp_session(np.array([tensor["data"] for tensor in inputs], dtype=np.float32))
        return [_document("mlp", self.mlp_session, row[np.newaxis]) for row in y]

    @bentoml.api(route="/mlp_single")
    async def mlp_single(self, inputs: list[dict]) -> dict:
        return _document("mlp", self.mlp_session, self.mlp_session(_only(inputs)))

    @bentoml.api(route="/wide")
    async def wide(self, inputs: list[dict]) -> dict:
        return _document("wide", self.wide_session, self.wide_session(_only(inputs)))


def _only(inputs):
    return np.array(inputs[0]["data"], dtype=np.float32).reshape(inputs[0]["shape"])
