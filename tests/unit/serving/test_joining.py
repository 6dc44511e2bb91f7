"""``holdfast up`` on a cluster: only on its head node, beside no other Holdfast, after what it left there itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve

from serving import app
from serving.cluster import StartError
from serving.deployments.common import APPLICATION
from serving.deployments.nodes import Node
from serving.settings import Settings

ADDRESS = "10.0.0.1:6379"
HEAD, OTHER = Node("aa", "10.0.0.1", head=True), Node("bb", "10.0.0.2", head=False)


class FakeCluster:
    """What Ray and Serve would say and do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = HEAD
        self.applications: dict[str, Any] = {}
        self.joined = False
        self.fault: Exception | None = None
        monkeypatch.setattr(app, "this_node", lambda: self.node)
        monkeypatch.setattr(app, "_end_applications", self.applications.clear)
        monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=self.applications))
        monkeypatch.setattr(ray, "init", self._init)
        monkeypatch.setattr(ray, "is_initialized", lambda: self.joined)
        monkeypatch.setattr(ray, "shutdown", self._shutdown)

    def _init(self, **options: Any) -> None:
        assert options["address"] == ADDRESS
        if self.fault is not None:
            raise self.fault
        self.joined = True

    def _shutdown(self) -> None:
        self.joined = False


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return FakeCluster(monkeypatch)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=str(tmp_path), ray_address=ADDRESS)


def test_it_joins_a_cluster_on_its_head_node(cluster: FakeCluster, settings: Settings) -> None:
    assert app.join_ray(settings, ADDRESS) is False
    assert cluster.joined


def test_elsewhere_it_says_where_to_go(cluster: FakeCluster, settings: Settings) -> None:
    cluster.node = OTHER
    with pytest.raises(StartError, match=r"^ray_address: this machine \(10\.0\.0\.2\) isn't the head node"):
        app.join_ray(settings, ADDRESS)
    assert not cluster.joined


@pytest.mark.parametrize("fault", [ConnectionError("Could not find any\nmore"), RuntimeError("versions differ")])
def test_a_cluster_that_cannot_be_joined_is_named_in_one_line(
    fault: Exception, cluster: FakeCluster, settings: Settings
) -> None:
    cluster.fault = fault
    with pytest.raises(StartError, match=rf"^ray_address: .*{ADDRESS}: {str(fault).splitlines()[0]}$"):
        app.join_ray(settings, ADDRESS)


def test_beside_another_holdfast_it_does_not_start_and_leaves_that_alone(
    cluster: FakeCluster, settings: Settings
) -> None:
    cluster.applications[APPLICATION] = None
    with pytest.raises(StartError, match=f"an application {APPLICATION} runs on the cluster at {ADDRESS} already"):
        app.join_ray(settings, ADDRESS)
    assert not cluster.joined
    app.leave_ray(settings)
    assert APPLICATION in cluster.applications


def test_what_it_left_itself_when_it_was_killed_is_ended(cluster: FakeCluster, settings: Settings) -> None:
    app.join_ray(settings, ADDRESS)
    cluster.applications[APPLICATION] = None
    assert app.join_ray(settings, ADDRESS) is True
    assert not cluster.applications


def test_after_an_end_in_good_order_nothing_there_is_its_own(cluster: FakeCluster, settings: Settings) -> None:
    app.join_ray(settings, ADDRESS)
    app.leave_ray(settings)
    assert not cluster.joined
    cluster.applications[APPLICATION] = None
    with pytest.raises(StartError, match="already"):
        app.join_ray(settings, ADDRESS)


def test_on_another_cluster_nothing_is_its_own_either(cluster: FakeCluster, settings: Settings) -> None:
    app.join_ray(settings, ADDRESS)
    cluster.node = Node("cc", "10.0.0.1", head=True)
    cluster.applications[APPLICATION] = None
    with pytest.raises(StartError, match="already"):
        app.join_ray(settings, ADDRESS)


def test_nothing_is_built_where_its_files_are_not(cluster: FakeCluster) -> None:
    cluster.node, cluster.joined = OTHER, True
    with pytest.raises(StartError, match=r"10\.0\.0\.2 isn't the head node"):
        app.build({})
