"""The real HAProxy before a small gateway: what clients see while HAProxy dies, is replaced, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from serving.ingress.haproxy import ACCEPTING_PATH, accepting_body
from serving.ingress.keeper import HaproxyFiles, HaproxyKeeper, listen, running_pid
from serving.settings import GatewaySettings, HttpSettings, Settings

pytestmark = pytest.mark.integration

DEADLINE_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def two_free_ports() -> tuple[int, int]:
    """Two that follow each other."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", first + 1)):
            return first, first + 1


class Gateway(BaseHTTPRequestHandler):
    """Answers whatever it is asked."""

    protocol_version = "HTTP/1.1"

    check_takes_s = 0.0
    system = "ours"
    answer = b"ok"

    def do_GET(self) -> None:
        checked = self.path == ACCEPTING_PATH
        if checked:
            time.sleep(self.check_takes_s)
        body = accepting_body(True, self.system) if checked else self.answer
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class SlowGateway(Gateway):
    """Has no time for HAProxy's checks."""

    check_takes_s = 1.5


class Foreign(Gateway):
    """One of another Holdfast."""

    system = "theirs"
    answer = b"foreign"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """HAProxy goes away whenever it likes."""


@contextlib.asynccontextmanager
async def gateway(port: int, kind: type[Gateway] = Gateway) -> AsyncIterator[None]:
    with Server(("127.0.0.1", port), kind) as server:
        serving = asyncio.get_running_loop().run_in_executor(None, server.serve_forever, 0.05)
        try:
            yield
        finally:
            server.shutdown()
            await serving


def ask(port: int) -> str:
    """`ok`, or how it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/", headers={"connection": "close"})
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == 200 else str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - what other processes do sets no event
            await asyncio.sleep(0.02)


class Clients:
    """Four, each with a new connection for every request, until told to stop. ``answers`` as they come."""

    def __init__(self, port: int) -> None:
        self.answers: list[str] = []
        self._port = port
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._go) for _ in range(4)]

    def _go(self) -> None:
        while not self._stopped.is_set():
            self.answers.append(ask(self._port))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class Place:
    """Where a keeper works: its settings and ports."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.gateway_port, self.next_port = two_free_ports()
        http = HttpSettings(port=self.port, gateway_ports=(self.gateway_port, self.next_port))
        self.settings = Settings(http=http, gateway=GatewaySettings(replicas=1), state_dir=str(folder))
        self.files = HaproxyFiles(self.settings)
        self.started: list[int | None] = []

    def keeper(self) -> HaproxyKeeper:
        return HaproxyKeeper(
            self.settings,
            self.files,
            system=Gateway.system,
            on_start=lambda: self.started.append(running_pid(self.files)),
        )

    def answers(self) -> bool:
        return ask(self.port) == "ok"


def test_nobody_is_refused_while_haproxy_is_dead(tmp_path: Path) -> None:
    async def play() -> tuple[list[str], list[int | None]]:
        place = Place(tmp_path)
        keeper = place.keeper()
        async with gateway(place.gateway_port):
            await keeper.start()
            try:
                await until(place.answers)
                with Clients(place.port) as clients:
                    for death in range(3):
                        pid, seen = running_pid(place.files), len(clients.answers)
                        assert pid is not None
                        os.kill(pid, signal.SIGKILL)
                        await until(lambda n=death + 2, m=seen + 50: keeper.starts == n and len(clients.answers) > m)  # type: ignore[misc]
            finally:
                await keeper.stop()
        return clients.answers, place.started

    answers, starts = asyncio.run(play())
    lost = [answer for answer in answers if answer != "ok"]
    assert "ConnectionRefusedError" not in lost
    assert len(starts) == 4
    assert len(set(starts)) == 4
    assert len(lost) <= 3 * 4, lost  # what four clients had under way in three that died


KEEPER = """
import asyncio, sys
import msgspec
from serving.ingress.haproxy import ACCEPTING_PATH
from serving.ingress.keeper import HaproxyFiles, HaproxyKeeper
from serving.settings import Settings

async def main():
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    await HaproxyKeeper(settings, HaproxyFiles(settings), system="ours").start()
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_the_next_keeper_takes_over_from_one_that_died(tmp_path: Path) -> None:
    async def play() -> list[str]:
        place = Place(tmp_path)
        keeper = place.keeper()
        dying = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KEEPER, msgspec.json.encode(place.settings).decode()),
            stdout=asyncio.subprocess.PIPE,
        )
        async with gateway(place.gateway_port):
            try:
                assert dying.stdout is not None
                assert await dying.stdout.readline() == b"started\n"
                await until(place.answers)
                orphan = running_pid(place.files)
            finally:
                dying.kill()
                await dying.wait()
            with Clients(place.port) as clients:
                await keeper.start()
                try:
                    await until(lambda: not Path(f"/proc/{orphan}").exists() and len(clients.answers) > 50)
                finally:
                    clients.stop()
                    await keeper.stop()
        return clients.answers

    assert [answer for answer in asyncio.run(play()) if answer != "ok"] == []


def test_the_only_gateways_are_asked_also_if_they_are_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> list[str]:
        place = Place(tmp_path)
        keeper = place.keeper()
        async with gateway(place.gateway_port, SlowGateway):
            await keeper.start()
            try:
                await until(lambda: "backend 'gateways' has no server available" in caplog.text)
                return [ask(place.port) for _ in range(20)]
            finally:
                await keeper.stop()

    with caplog.at_level(logging.INFO, "holdfast.haproxy"):
        assert asyncio.run(play()) == ["ok"] * 20


def test_a_gateway_of_another_holdfast_in_the_same_range_gets_no_requests(tmp_path: Path) -> None:
    async def play() -> list[str]:
        place = Place(tmp_path)
        keeper = place.keeper()
        async with gateway(place.gateway_port, Foreign):
            await keeper.start()
            try:
                await until(lambda: ask(place.port) == "503")
                async with gateway(place.next_port):
                    await until(place.answers)
                    return [ask(place.port) for _ in range(20)]
            finally:
                await keeper.stop()

    assert asyncio.run(play()) == ["ok"] * 20


def test_who_comes_after_the_end_is_refused_at_once(tmp_path: Path) -> None:
    async def play() -> str:
        place = Place(tmp_path)
        keeper = place.keeper()
        async with gateway(place.gateway_port):
            await keeper.start()
            await until(place.answers)
            await keeper.stop()
        assert not keeper.running
        return ask(place.port)

    assert asyncio.run(play()) == "ConnectionRefusedError"


def test_an_address_that_is_somebody_elses_is_told_of() -> None:
    with pytest.raises(OSError, match="assign"):
        listen(HttpSettings(host="192.0.2.1", port=free_port()))
