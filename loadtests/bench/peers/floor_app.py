"""The floor: one uvicorn process, ONNX Runtime called in the handler, no validation and no protection at all."""

import os

import numpy as np
import onnxruntime
import orjson

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1
_session = onnxruntime.InferenceSession(os.environ["MLP_ONNX"], _options, providers=["CPUExecutionProvider"])
_HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _predict(body)})


def _predict(body):
    tensor = orjson.loads(body)["inputs"][0]
    x = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    y = _session.run(None, {"x": x})[0]
    output = {"name": "probabilities", "datatype": "FP32", "shape": list(y.shape), "data": y.ravel()}
    return orjson.dumps({"model_name": "mlp", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)


async def _lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
