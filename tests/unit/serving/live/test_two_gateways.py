"""Two gateways with real listeners, wired as they are in a replica: each tells of both, over real sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from models.registry import Registry
from serving import version
from serving.clock import SystemClock
from serving.errors import ReplicaUnavailable
from serving.gateway import Gateway
from serving.ingress.information import Information
from serving.ingress.listener import Listener
from serving.ingress.routes import Routes
from serving.live.setup import build_live
from serving.live.siblings import get
from serving.request.pipeline import Pipeline
from serving.request.record import RequestRecorder
from serving.routing.table import EMPTY
from serving.settings import HttpSettings, Settings
from serving.status import gateway_status
from serving.tracing.context import RequestContexts
from tests.fakes import FakeClock, FakeLink, publish_version

SETTINGS = Settings(http=HttpSettings(port=1, gateway_ports=(31_000, 31_003)))
HOST = "127.0.0.1"


class Replica:
    """What a gateway's replica is, without Ray; nobody answers as the control plane."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        clock = SystemClock()
        self.gateway = Gateway(SETTINGS, link=self._link, read_manifest=registry.manifest, clock=clock)
        self.live = build_live(
            SETTINGS,
            status=self._status,
            rollouts=self._rollouts,
            port=lambda: self.listener.port,
            metrics_dir=folder,
            incidents=None,
            system="",
            version="1.2.3",
            clock=clock,
        )
        information = Information(
            self.gateway, version="1.2.3", list_versions=list, render_metrics=self._metrics, status=self._status
        )
        routes = Routes(
            Pipeline(self.gateway, RequestRecorder((1.0,)), clock=clock),
            information,
            [self.live.routes],
            body_max_bytes=1000,
            contexts=RequestContexts("gw"),
        )
        self.listener = Listener(routes.answer, SETTINGS.http, clock=clock)

    async def _link(self, model: str, version: str) -> FakeLink:
        return FakeLink(FakeClock())

    def _status(self) -> dict[str, Any]:
        return gateway_status(self.gateway, cache=None, clock=SystemClock())

    async def _rollouts(self) -> bytes:
        raise ReplicaUnavailable("the control plane didn't answer: ActorDiedError")

    async def _metrics(self) -> bytes:
        return b""

    async def close(self) -> None:
        self.live.close()
        await asyncio.wait_for(self.listener.close(), 5)
        await self.gateway.close()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


async def started(registry: Registry, folder: Path) -> Replica:
    replica = Replica(registry, folder)
    digest = publish_version(registry, "m", "v1").digest
    await replica.gateway.apply(EMPTY.with_version("m", "v1", digest))
    await replica.listener.start()
    return replica


async def overview(replica: Replica) -> dict[str, Any]:
    told = json.loads(await get(HOST, replica.listener.port, "/v2/holdfast/overview"))
    assert isinstance(told, dict)
    return told


async def test_each_tells_of_both_and_one_alone_of_itself(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "READY_WAIT_S", 0.0)  # there are no replicas to wait for
    one, other = await asyncio.gather(started(registry, tmp_path), started(registry, tmp_path))
    ports = sorted([one.listener.port, other.listener.port])
    for replica in (one, other):
        told = await overview(replica)
        assert (told["gateways"]["seen"], told["gateways"]["ports"]) == (2, ports)
        assert [each["breaker"]["gateways"] for each in told["models"][0]["versions"]] == [
            {str(port): "closed" for port in ports}
        ]
        assert told["controller"]["state"] == "silent"
        assert told["controller"]["detail"] == "the control plane didn't answer: ActorDiedError"

    reader, writer = await asyncio.open_connection(HOST, one.listener.port)
    writer.write(b"GET /v2/holdfast/live HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    await other.close()
    while True:
        line = await asyncio.wait_for(reader.readline(), 10)
        if line.startswith(b"data: ") and json.loads(line[6:])["gateways"]["seen"] == 1:
            break
    told = json.loads(line[6:])
    assert "1 of 2 gateways is missing" in told["verdict"]["reasons"]
    assert f"a gateway went, from port {other.listener.port}" in [event["text"] for event in told["events"]]
    await one.close()
    assert (await reader.read()).endswith(b"0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
