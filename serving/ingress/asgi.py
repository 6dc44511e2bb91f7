"""The routes as one raw ASGI callable, for Serve's own proxies.

Not here: what is answered (``serving.ingress.routes``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from typing import Any, TypeVar

from serving.errors import InvalidRequest, PayloadTooLarge
from serving.ingress.http import HttpRequest, HttpResponse, HttpStream, Response, json_response
from serving.ingress.routes import Routes
from serving.protocol.status import error_response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
B = TypeVar("B", bytes, bytearray)


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
        response: Response
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
        if isinstance(response, HttpStream):
            await _stream(response, receive, send, head_only=scope["method"] == "HEAD")
            return
        headers = list(response.headers)
        if response.status != 304:  # its length would be that of what isn't sent
            headers.append((b"content-length", b"%d" % len(response.body)))
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
        whole = bytearray(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            whole += message.get("body", b"")
            if len(whole) > self._body_max_bytes:
                break
        return bytes(self._checked(whole))

    def _checked(self, body: B) -> B:
        if len(body) > self._body_max_bytes:
            raise PayloadTooLarge(f"the body has more than {self._body_max_bytes} bytes")
        return body


async def _stream(stream: HttpStream, receive: Receive, send: Send, *, head_only: bool) -> None:
    """All of it, or as much as the client stays for. The server in front sees to it that a slow one slows ``send``."""
    await send({"type": "http.response.start", "status": stream.status, "headers": stream.headers})
    sending = asyncio.ensure_future(_send_chunks(stream, send, head_only=head_only))
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send_chunks(stream: HttpStream, send: Send, *, head_only: bool) -> None:
    async with aclosing(stream.chunks):
        if not head_only:
            async for chunk in stream.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
