"""The floor: one uvicorn process, ONNX Runtime called in the handler, no validation and no protection at all."""

from onnx_model import Session
from protocol import HEADER, read, write

_MODELS = {f"/{name}": (name, Session(name)) for name in ("mlp", "wide", "orientation")}
_HEADERS = [(b"content-type", b"application/json")]
_LENGTH = HEADER.encode()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    header_length = next((value for key, value in scope["headers"] if key == _LENGTH), None)
    name, session = _MODELS[scope["path"]]
    y = session(read(b"".join(parts), header_length))
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": write(name, session.output, y)})


async def _lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
