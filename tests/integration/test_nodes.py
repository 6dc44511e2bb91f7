"""Model replicas on two nodes of a Ray cluster: one is lost, and no caller notices."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.nodes import Node
from tests.integration.system import BLANK, GATEWAY, RECOVERY_S, START_S, System, Traffic, eventually, free_ports

pytestmark = pytest.mark.integration

HEAD, OTHER, LATER = "127.0.0.2", "127.0.0.3", "127.0.0.4"


class Cluster:
    """Holdfast on a head node, and what has joined it."""

    def __init__(self, store: Path) -> None:
        model = {"name": "digits", "versions": ["v2"], "replicas": 2, "max_replicas_per_node": 1}
        self.system = System(store, models=[model], gateways=1)
        (self._port,) = free_ports(1)
        self.system.args["ray_address"] = f"{HEAD}:{self._port}"
        self.head = Node(self.system, HEAD, port=self._port)
        eventually(self._listens, "the head node listens", alive=self.head.alive)
        self.nodes = [self.head]

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HEAD, self._port), timeout=1):
            return True
        return False

    def join(self, ip: str) -> Node:
        self.nodes.append(Node(self.system, ip, port=self._port, join=HEAD))
        return self.nodes[-1]

    def places(self) -> list[str]:
        """The addresses of the nodes with a replica that a gateway has a channel to, sorted."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            told = self.system.ask("GET", "/v2/holdfast/status")
            models: dict[str, Any] = told.json()["models"] if told.status == 200 else {}
            versions = models.get("digits", {"versions": {}})["versions"]
            return sorted(
                replica["ip"] for replica in versions.get("v2", {"replicas": []})["replicas"] if replica["live"]
            )
        return []

    def remove(self) -> None:
        for node in self.nodes:
            node.kill()
        self.system.remove()


@pytest.fixture(scope="module")
def cluster(zoo_store: Path) -> Iterator[Cluster]:
    """With two nodes and ready; the tests go on from one to the next."""
    found = Cluster(zoo_store)
    try:
        other = found.join(OTHER)
        found.system.start()
        eventually(lambda: found.places() != [], "a replica answers", within_s=START_S, alive=other.alive)
        found.system.wait_until_ready()
        eventually(
            lambda: found.places() == [HEAD, OTHER], lambda: f"both have one: {found.places()}", alive=other.alive
        )
        yield found
    finally:
        found.remove()


def of_replicas(system: System, name: str) -> float:
    """The sum of a metric's samples of model replicas."""
    return sum(value for sample, value in system.metrics().items() if sample.name == name and wanted(sample.labels))


def wanted(labels: frozenset[tuple[str, str]]) -> bool:
    return ("model", "digits") in labels and {value for key, value in labels if key == "kind"} <= {"replica"}


def test_both_nodes_answer_and_both_are_counted(cluster: Cluster) -> None:
    system = cluster.system
    listed = system.ask("GET", "/v2/holdfast/replicas").json()[0]["replicas"]
    assert sorted(replica["ip"] for replica in listed) == [HEAD, OTHER]
    assert len({replica["node"] for replica in listed}) == 2
    pid = next(replica["pid"] for replica in listed if replica["ip"] == OTHER)
    assert pid in cluster.nodes[1].pids()
    assert "digits@v2: fetched from the head node" in cluster.nodes[1].logs()
    assert "fetched from the head node" not in cluster.head.logs()
    with Traffic(system, "digits") as traffic:
        traffic.wait_for_more(100)
    assert traffic.failures() == []
    runs = len(traffic.answers["digits"])  # one request at a time is never batched
    eventually(
        lambda: of_replicas(system, "holdfast_model_compute_seconds_count") >= runs,
        lambda: f"{of_replicas(system, 'holdfast_model_compute_seconds_count')} of {runs} runs are counted",
    )
    assert of_replicas(system, "holdfast_process_starts_total") == 2
    assert of_replicas(system, "holdfast_processes") == 2
    assert OTHER in system.run("status").stdout


def test_the_loss_of_a_node_costs_no_request(cluster: Cluster) -> None:
    system, other = cluster.system, cluster.nodes[1]
    with Traffic(system, "digits", "digits") as traffic:
        traffic.wait_for_more(100)
        other.kill()
        eventually(lambda: cluster.places() == [HEAD], lambda: f"it is left out: {cluster.places()}")
        traffic.wait_for_more(300)
    assert traffic.failures() == []
    assert max(traffic.seconds) < 5
    assert other.pids() == []


def test_a_node_that_joins_gets_the_lost_replica(cluster: Cluster) -> None:
    later = cluster.join(LATER)
    with Traffic(cluster.system, "digits") as traffic:
        eventually(
            lambda: cluster.places() == [HEAD, LATER],
            lambda: f"it has a replica: {cluster.places()}",
            within_s=RECOVERY_S,
            alive=later.alive,
        )
        traffic.wait_for_more(50)
    assert traffic.failures() == []


def test_at_the_end_its_applications_are_gone_and_ray_goes_on(cluster: Cluster) -> None:
    assert cluster.system.infer("digits", BLANK).status == 200
    assert cluster.system.leave() == 0
    assert not cluster.system.pids(GATEWAY)
    assert not [process for process in cluster.system.processes() if "ServeReplica" in process.command]
    assert [node.alive() for node in (cluster.head, cluster.nodes[-1])] == [None, None]
    cluster.nodes[-1].stop()
