"""How the node stands is told while it is well, while the control plane is dead, and past a gateway's death."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.system import CONTROL, GATEWAY, HOST, System, Traffic, eventually

pytestmark = pytest.mark.integration

OVERVIEW = "/v2/holdfast/overview"


class EventSource:
    """Reads server-sent events through HAProxy as a browser does: whenever the stream ends, it comes again."""

    def __init__(self, system: System) -> None:
        self.snapshots: list[dict[str, Any]] = []
        self.streams = 0
        self._port = system.port
        self._retry_s = 3.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="an EventSource")

    def __enter__(self) -> EventSource:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(HOST, self._port, timeout=10)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/v2/holdfast/live", headers={"accept": "text/event-stream"})
                response = connection.getresponse()
                if response.status == 200:
                    assert response.headers["content-type"].startswith("text/event-stream")
                    self.streams += 1
                    self._read(response)
            self._stop.wait(self._retry_s)

    def _read(self, response: http.client.HTTPResponse) -> None:
        while (line := response.readline()) and not self._stop.is_set():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "retry":
                self._retry_s = int(value) / 1000
            elif field == "data":
                self.snapshots.append(json.loads(value))

    def one_with(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first snapshot from now on of which that is true."""
        seen = len(self.snapshots)
        [found] = eventually(
            lambda: [one for one in self.snapshots[seen:] if condition(one)][:1],
            lambda: f"{what}; the last one said {self.snapshots[-1:]}"[:2000],
        )
        return found


def model_of(snapshot: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [model for model in snapshot["models"] if model["name"] == name]
    assert isinstance(found, dict)
    return found


def fine(snapshot: dict[str, Any]) -> bool:
    return bool(snapshot["verdict"]["state"] == "fine")


def test_the_overview_tells_of_all_gateways_whichever_is_asked(system: System) -> None:
    eventually(lambda: fine(system.ask("GET", OVERVIEW).json()), "it is fine")
    ports = system.gateway_ports()
    with Traffic(system, "digits", "digits-lite") as traffic:
        traffic.wait_for_more(200)
        eventually(lambda: model_of(system.ask("GET", OVERVIEW).json(), "digits")["rate"] > 1, "requests are seen")
        told = [system.ask("GET", OVERVIEW, port=port).json() for port in ports]
    for one in told:
        assert (one["gateways"]["seen"], one["gateways"]["ports"]) == (2, ports)
        assert len(set(one["gateways"]["generations"])) == 1
        assert (one["controller"]["state"], one["admin"]) == ("writing", {"open": True, "token": False})
        digits = model_of(one, "digits")
        assert (digits["stable"], digits["errors"]) == ("v2", 0)
        assert 0 < digits["p50_ms"] <= digits["p99_ms"]
        roles = {version["version"]: version["role"] for version in digits["versions"]}
        assert roles == {"v1": "standby", "v2": "stable"}
        v2 = digits["versions"][1]
        assert (v2["weight"], v2["ready"], v2["breaker"]["state"]) == (1.0, True, "closed")
        assert set(v2["breaker"]["gateways"]) == {str(port) for port in ports}
        pids = {replica["pid"] for replica in v2["replicas"]}
        assert pids == set(system.pids("ray::ServeReplica:digits@v2:Model"))
        series = digits["series"]
        assert {len(values) for values in series.values()} == {len(series["t"])}
        assert sum(series["ok"]) > 0
    assert {one["holdfast"]["pid"] for one in told} == set(system.pids(GATEWAY))


def test_the_command_says_what_the_overview_says(system: System) -> None:
    said = eventually(
        lambda: (done := system.run("status")).returncode == 0 and done, "the command says that it is fine"
    )
    assert said
    assert said.stdout.startswith("● fine"), said
    for text in ("gateways    2 of 2 take requests", "controller  writing", "v2 stable 100 %", "orientation"):
        assert text in said.stdout
    told = json.loads(system.run("status", "--json").stdout)
    assert [model["name"] for model in told["models"]] == ["digits", "digits-lite", "orientation"]


def test_it_is_told_on_while_the_control_plane_is_dead(system: System) -> None:
    dead = system.pid(CONTROL)
    with EventSource(system) as source:
        first = source.one_with(fine, "it is fine")
        os.kill(dead, signal.SIGSTOP)  # until it is silent: another one is there too soon to be missed
        silent = source.one_with(lambda one: one["controller"]["state"] == "silent", "the control plane is silent")
        assert silent["verdict"]["state"] == "degraded"
        assert "the control plane is silent" in silent["verdict"]["reasons"][0]
        assert model_of(silent, "digits")["versions"][1]["ready"]
        os.kill(dead, signal.SIGKILL)
        again = source.one_with(lambda one: one["controller"]["state"] == "writing", "there is another control plane")
        assert again["controller"]["pid"] not in (0, dead)
        kinds = [event["kind"] for event in again["events"]]
        assert "controller" in kinds
    assert source.streams == 1
    gaps = [b["time"] - a["time"] for a, b in zip(source.snapshots, source.snapshots[1:], strict=False)]
    assert max(gaps) < 10
    assert first["controller"]["pid"] == dead


def test_a_viewer_of_a_gateway_that_dies_finds_another(system: System) -> None:
    with EventSource(system) as source:
        first = source.one_with(fine, "it is fine")
        os.kill(first["holdfast"]["pid"], signal.SIGKILL)
        other = source.one_with(lambda one: one["holdfast"]["pid"] != first["holdfast"]["pid"], "another one tells")
        assert other["gateways"]["accepting"] >= 1
        whole = source.one_with(lambda one: one["gateways"]["seen"] == 2 and fine(one), "both are there again")
        assert whole["holdfast"]["pid"] != first["holdfast"]["pid"]
    assert source.streams >= 2


def test_a_viewer_does_not_keep_a_gateway_from_leaving(system: System) -> None:
    with EventSource(system) as source:
        first = source.one_with(fine, "it is fine")
        began = time.monotonic()
        os.kill(first["holdfast"]["pid"], signal.SIGTERM)
        eventually(lambda: first["holdfast"]["pid"] not in system.pids(GATEWAY), "it has left", within_s=25)
        source.one_with(lambda one: one["holdfast"]["pid"] != first["holdfast"]["pid"], "another one tells")
        assert time.monotonic() - began < 25  # it drains for up to 30 s, if there is something to wait for


class Ear:
    """Listens at a port of the gateways' range that no gateway has, and hears whether anyone asks how it stands."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self._server = socket.create_server((HOST, port))
        self._thread = threading.Thread(target=self._listen, name="an ear")

    def __enter__(self) -> Ear:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self.asked += connection.recv(4096).startswith(b"GET /v2/holdfast/status")
                connection.sendall(
                    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )

    def is_asked_within(self, seconds: float) -> bool:
        """Whether anyone asks from now on."""
        before, until = self.asked, time.monotonic() + seconds
        while self.asked == before and time.monotonic() < until:
            time.sleep(0.05)
        return self.asked > before


def test_nobody_asks_around_once_the_last_viewer_has_gone(system: System) -> None:
    free = next(port for port in system.range if port not in system.gateway_ports())
    with Ear(free) as ear:
        with EventSource(system) as one, EventSource(system) as other:
            one.one_with(fine, "it is fine")
            other.one_with(fine, "it is fine")
            assert ear.is_asked_within(5)
        # HAProxy has to hear first that the viewers have gone, then the gateway
        eventually(lambda: not ear.is_asked_within(3), "nobody asks any more")


def test_a_breaker_that_is_closed_is_not_closed_again(system: System) -> None:
    answer = system.ask("POST", "/v2/holdfast/breakers/digits/v2/close")
    assert (answer.status, answer.error()) == (409, "the breaker of digits@v2 is closed already in all gateways")
    assert system.ask("POST", "/v2/holdfast/breakers/digits/v9/close").status == 404
