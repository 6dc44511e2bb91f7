"""A gateway's whole way in, without sockets: what a test sends is a request, what it gets is a response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from models.registry import Registry
from serving.admin.guard import Guard
from serving.admin.routes import AdminRoutes
from serving.errors import BreakerNotOpen, LoadFailed, ModelNotFound, RolloutNotFound, RolloutRefused
from serving.gateway import Gateway
from serving.incidents.store import IncidentStore
from serving.ingress.asgi import AsgiApp, Message
from serving.ingress.faults import FaultsOnDemand
from serving.ingress.information import Information
from serving.ingress.routes import Routes
from serving.model_settings import ModelSettings
from serving.request.pipeline import Pipeline
from serving.request.record import RequestRecorder
from serving.routing.table import EMPTY
from serving.settings import HttpSettings, Settings
from serving.tracing.context import RequestContexts
from tests.fakes import FakeClock, FakeLink, publish_version

BODY_MAX = 4096


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class FakeControl:
    """A control plane that remembers what it was told; model ``bad`` can't be loaded and never had a rollout."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, bytes]] = []
        self.asked: list[tuple[object, ...]] = []

    async def load(self, model: str, body: bytes) -> None:
        if model == "bad":
            raise LoadFailed("bad@v1 can't be loaded: it gave 7 where its golden example says 8")
        self.commands.append(("load", model, body))

    async def unload(self, model: str, body: bytes) -> None:
        if model == "unknown":
            raise ModelNotFound("'unknown' isn't loaded")
        self.commands.append(("unload", model, body))

    async def restart_gateways(self) -> bytes:
        self.commands.append(("restart", "", b""))
        return b'{"state":"running"}'

    async def gateways(self) -> bytes:
        return b'{"accepting":["g1"]}'

    async def close_breaker(self, model: str, version: str, body: bytes) -> bytes:
        if model == "bad":
            raise BreakerNotOpen("the breaker of bad@v1 is closed in all gateways")
        self.commands.append(("close_breaker", f"{model}@{version}", body))
        return b'{"gateways":2,"answered":2,"closed":1}'

    async def rollouts(self) -> bytes:
        return b'{"rollouts":[]}'

    async def rollout(self, model: str) -> bytes:
        if model == "bad":
            raise RolloutNotFound("'bad' never had a rollout")
        return json.dumps({"model": model}).encode()

    async def start_rollout(self, body: bytes) -> bytes:
        self.commands.append(("start", "", body))
        return b'{"rollout":"m-1"}'

    async def command_rollout(self, model: str, command: str, body: bytes) -> bytes:
        if model == "bad":
            raise RolloutRefused("'bad' is over; start another rollout")
        self.commands.append((command, model, body))
        return b'{"rollout":"m-1"}'

    async def rollout_history(self, model: str, after: int, limit: int) -> bytes:
        self.asked.append((model, after, limit))
        return b'{"events":[],"next":null}'


class Site:
    """Serves ``m`` in versions v1 (which answers by default) and v2, and ``n``; the store also has ``m@v3``."""

    def __init__(
        self,
        clock: FakeClock,
        folder: Path,
        *,
        admin: bool | None = None,
        host: str = "127.0.0.1",
        token: bytes | None = None,
        faults: bool = False,
        incidents: IncidentStore | None = None,
    ) -> None:
        """``token`` is what stands in the token's file; None if the settings name no file."""
        self.registry = Registry(folder)
        self.links: dict[str, FakeLink] = {}
        self.recorder = RequestRecorder((1.0,))
        self.control = FakeControl()
        self._clock = clock
        models = (ModelSettings(name="m", versions=("v1", "v2"), max_batch_rows=32),)
        settings = Settings(
            models=models,
            faults=faults,
            admin=admin,
            admin_token_file=None if token is None else "token",
            http=HttpSettings(host=host),
        )
        self.refused: list[str] = []
        self.token = token
        self.gateway = Gateway(
            settings, link=self._link, read_manifest=self.registry.manifest, clock=clock, system="here"
        )
        information = Information(
            self.gateway, version="1.2.3", list_versions=self.registry.versions, render_metrics=self._metrics
        )
        self.routes = Routes(
            Pipeline(self.gateway, self.recorder, clock=clock),
            information,
            [
                AdminRoutes(
                    self.control,
                    FaultsOnDemand(self.gateway),
                    Guard(
                        settings, token=None if token is None else lambda: self.token or b"", count=self.refused.append
                    ),
                    body_max_bytes=BODY_MAX,
                    incidents=incidents,
                )
            ],
            body_max_bytes=BODY_MAX,
            contexts=RequestContexts("gw"),
        )
        self.app = AsgiApp(body_max_bytes=BODY_MAX, routes=self.routes)

    async def _link(self, model: str, version: str) -> FakeLink:
        link = self.links[f"{model}@{version}"] = FakeLink(self._clock)
        return link

    async def _metrics(self) -> bytes:
        return b"holdfast_requests_total 1\n"

    async def start(self) -> None:
        table = EMPTY
        for model, version in (("m", "v1"), ("m", "v2"), ("n", "v1")):
            digest = publish_version(self.registry, model, version, version.encode()).digest
            table = table.with_version(model, version, digest)
        publish_version(self.registry, "m", "v3", b"v3")
        await self.gateway.apply(table.without_version("m", "v3", reason="it is rotten"))

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request, in pieces if ``body`` is some, and await the whole response."""
        pieces = [body] if isinstance(body, bytes) else list(body)
        incoming: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": index < len(pieces) - 1}
            for index, piece in enumerate(pieces)
        ]
        return await exchange(self.app, method, path, incoming, headers)


async def exchange(
    app: AsgiApp, method: str, path: str, incoming: list[Message], headers: Mapping[str, str] | None = None
) -> Response:
    """What an ASGI server does with one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    bare, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": bare,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    await app(scope, receive, send)
    if not sent:
        return Response(0, {}, b"")
    start, end = sent
    assert (start["type"], end["type"]) == ("http.response.start", "http.response.body")
    assert not end.get("more_body", False)
    return Response(start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, end["body"])


@pytest.fixture
def site(clock: FakeClock, tmp_path: Path) -> Site:
    return Site(clock, tmp_path)
