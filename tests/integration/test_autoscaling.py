"""Replicas of gateway and model come with the work and go when it is gone, and nobody notices but by the speed."""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.system import GATEWAY, HOST, System, eventually, infer_path, request

pytestmark = pytest.mark.integration

MODEL = "ray::ServeReplica:orientation@v1:Model"
QUICK = {"min_replicas": 1, "upscale_delay_s": 1.0, "downscale_delay_s": 3.0}
SETTINGS = {
    "name": "orientation",
    "versions": ["v1"],
    "timeout_ms": 60_000,
    "max_batch_rows": 2,
    "autoscaling": {**QUICK, "max_replicas": 3, "target_inflight": 2},
}
SHAPE = (1, 3, 224, 224)
PIXELS = bytes(4 * math.prod(SHAPE))
HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": SHAPE,
                "parameters": {"binary_data_size": len(PIXELS)},
            }
        ]
    }
).encode()
BODY = HEAD + PIXELS
"""Made once, and binary: the time shall be spent in the model."""
HEADERS = {"Inference-Header-Content-Length": str(len(HEAD))}


@pytest.fixture
def system(zoo_store: Path) -> Iterator[System]:
    system = System(zoo_store, models=(SETTINGS,), gateways=1)
    system.args["gateway"]["autoscaling"] = {**QUICK, "max_replicas": 2, "target_inflight": 5}
    try:
        system.start()
        system.wait_until_ready()
        yield system
        assert system.stop() == 0
        assert system.traces() == []
    finally:
        system.remove()


class Crowd:
    """Clients that each ask again as soon as they have their answer."""

    def __init__(self, system: System, clients: int) -> None:
        self._system = system
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.statuses: list[int | str] = []

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._system.port, timeout=60)
        while not self._enough.is_set():
            try:
                status: int | str = request(connection, "POST", infer_path("orientation"), BODY, HEADERS).status
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status = repr(error)
            self.statuses.append(status)
        connection.close()


def sizes(system: System) -> tuple[int, int]:
    """Model replicas, and gateways that accept requests."""
    return len(system.pids(MODEL)), len(system.gateway_ports())


def test_replicas_come_with_the_work_and_go_when_it_is_gone(system: System) -> None:
    assert sizes(system) == (1, 1)
    with Crowd(system, 1) as steady:
        with Crowd(system, 8) as crowd:
            eventually(lambda: sizes(system) == (3, 2), lambda: f"there are three and two: {sizes(system)}")
        eventually(
            lambda: sizes(system) == (1, 1) and len(system.pids(GATEWAY)) == 1,
            lambda: f"there is one of each again: {sizes(system)}",
        )
        asked = len(steady.statuses)
        eventually(lambda: len(steady.statuses) > asked + 10, "the last ones answer")
    assert set(crowd.statuses + steady.statuses) == {200}
