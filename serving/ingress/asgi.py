"""The routes as one raw ASGI callable, for Serve's own proxies.

Not here: what is answered (``serving.ingress.routes``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.errors import InvalidRequest, PayloadTooLarge
from serving.ingress.http import HttpRequest, HttpResponse, json_response
from serving.ingress.routes import Routes
from serving.protocol.status import error_response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApp:
    """``routes`` may come later than the app: until then every request is answered 503."""

    def __init__(self, *, body_max_bytes: int, routes: Routes | None = None) -> None:
        self._body_max_bytes = body_max_bytes
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise ValueError(f"no support for ASGI scope '{scope['type']}'")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: HttpResponse
        try:
            body = await self._read_body(receive)
            if body is None:
                return
        except (PayloadTooLarge, InvalidRequest) as error:
            response = HttpResponse(*error_response(error))
            response.headers.append((b"connection", b"close"))
        else:
            url = b"?" + scope.get("query_string", b"")
            request = HttpRequest(scope["method"], scope["path"], dict(scope["headers"]), body, url)
            if self.routes is None:
                response = json_response(b'{"error":"the gateway is starting"}', 503)
            else:
                response = await self.routes.answer(request)
        headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The whole body, or None if the client went away before it had sent it."""
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return self._checked(body)
        parts = [body]
        size = len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._body_max_bytes:
                break
        return self._checked(b"".join(parts))

    def _checked(self, body: bytes) -> bytes:
        if len(body) > self._body_max_bytes:
            raise PayloadTooLarge(f"the body has more than {self._body_max_bytes} bytes")
        return body


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
