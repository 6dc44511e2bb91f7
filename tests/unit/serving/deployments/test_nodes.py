"""What has to be on the head node, and what a replica elsewhere does without its files."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._common.constants import HEAD_NODE_RESOURCE_NAME

from models.errors import VersionNotFound
from models.manifest import MANIFEST_FILE, ModelVersion
from models.registry import Registry
from serving.app import BESIDE_MODELS, own_models
from serving.channel.address import TcpAddress, UnixAddress
from serving.deployments.common import MODEL_DEPLOYMENT
from serving.deployments.deployer import ApplicationStatus, model_deployment, reason_in, there
from serving.deployments.fetching import pieces_of, put_together
from serving.deployments.model import addresses
from serving.deployments.nodes import HEAD_RESOURCE, Node, node_of
from serving.deployments.run import Run, new_run
from serving.errors import LoadFailed
from serving.model_settings import ModelSettings
from serving.settings import ChannelSettings, Settings

LITE = ModelVersion("digits-lite", "v1")
HEAD = {"NodeID": "aa", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 2.0, HEAD_RESOURCE: 1.0}}
OTHER = {"NodeID": "bb", "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 2.0}}
RUN = Run("/state/run/abc", "a-secret")


def test_the_head_node_is_the_one_that_ray_marks() -> None:
    assert HEAD_RESOURCE == HEAD_NODE_RESOURCE_NAME
    assert node_of("aa", [OTHER, HEAD]) == Node("aa", "10.0.0.1", head=True)
    assert node_of("bb", [OTHER, HEAD]) == Node("bb", "10.0.0.2", head=False)
    with pytest.raises(LookupError, match="cc"):
        node_of("cc", [OTHER, HEAD])


def test_all_that_shares_files_asks_for_the_head_node() -> None:
    assert BESIDE_MODELS["ray_actor_options"]["resources"].keys() == {HEAD_RESOURCE}


def test_a_model_goes_wherever_there_is_room_and_never_twice_to_a_node_if_so_wanted() -> None:
    plain = model_deployment(ModelSettings(name="m", versions=("v1",), replicas=2))
    bounded = model_deployment(ModelSettings(name="m", versions=("v1",), replicas=2, max_replicas_per_node=1))
    assert "resources" not in plain.ray_actor_options
    assert plain._replica_config.max_replicas_per_node is None
    assert bounded._replica_config.max_replicas_per_node == 1


def test_a_replica_listens_on_a_socket_beside_the_gateways_and_at_its_address_elsewhere() -> None:
    settings = Settings(channel=ChannelSettings(socket_dir="/s"))
    at_the_head = list(addresses(settings, RUN, Node("aa", "10.0.0.1", head=True), "r1"))
    assert at_the_head == [UnixAddress("/s/holdfast-abc/r1.sock")]
    away = Node("bb", "10.0.0.2", head=False)
    assert list(addresses(settings, RUN, away, "r1")) == [TcpAddress("10.0.0.2", 0)]
    ranged = Settings(channel=ChannelSettings(tcp_ports=(7000, 7001)))
    assert list(addresses(ranged, RUN, away, "r1")) == [TcpAddress("10.0.0.2", 7000), TcpAddress("10.0.0.2", 7001)]


def test_every_run_has_a_folder_and_a_secret_that_is_not_shown() -> None:
    one, other = new_run(Settings(state_dir="/state")), new_run(Settings(state_dir="/state"))
    assert Path(one.folder).parent == Path("/state/run")
    assert one.folder != other.folder
    assert one.secret != other.secret
    assert len(one.secret) == 64
    assert one.secret not in repr(one)


def test_a_version_comes_whole_out_of_pieces(zoo_store: Path, tmp_path: Path) -> None:
    pieces = list(pieces_of(zoo_store, LITE, piece_bytes=1000))
    assert pieces[0][0] == MANIFEST_FILE
    assert max(len(piece) for _, piece in pieces) == 1000
    copy = tmp_path / LITE.model / LITE.version
    size = put_together(pieces, copy)
    assert size == sum(path.stat().st_size for path in copy.iterdir())
    assert Registry(tmp_path).verify(*LITE) == Registry(zoo_store).manifest(*LITE)


def test_an_empty_file_comes_too(zoo_store: Path, tmp_path: Path) -> None:
    put_together([("empty", b"")], tmp_path / "copy")
    assert (tmp_path / "copy" / "empty").read_bytes() == b""


def test_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VersionNotFound, match="digits-lite@v1"):
        list(pieces_of(tmp_path, LITE))


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", "", "..", "."])
def test_no_file_is_written_outside_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="plain file name"):
        put_together([(name, b"x")], tmp_path / "copy")


@pytest.mark.parametrize(
    ("state", "replicas", "is_there"),
    [
        ("RUNNING", 2, True),
        ("DEPLOYING", 0, True),
        ("UNHEALTHY", 1, True),  # a node is lost; to deploy it again would end the replica that is left
        ("UNHEALTHY", 0, False),
        ("DEPLOY_FAILED", 1, False),
        ("DELETING", 1, False),
        ("NOT_STARTED", 0, False),
    ],
)
def test_what_serves_with_some_of_its_replicas_is_not_deployed_again(state: str, replicas: int, is_there: bool) -> None:
    assert there(ApplicationStatus(state, "", replicas)) is is_there


def test_the_reason_why_files_could_not_be_fetched_is_told() -> None:
    message = "Traceback\n  ray...\nserving.errors.LoadFailed: m@v1 can't be fetched\n\nThe deployment failed."
    assert reason_in(message) == "LoadFailed: m@v1 can't be fetched"


def test_only_versions_of_models_are_ended_with_holdfast() -> None:
    names = {"m@v1": MODEL_DEPLOYMENT, "else": MODEL_DEPLOYMENT, "mail@home": "Mail"}
    applications = {name: SimpleNamespace(deployments={deployment: None}) for name, deployment in names.items()}
    assert own_models(applications) == {"m@v1"}


def test_pieces_are_read_as_they_are_wanted(zoo_store: Path) -> None:
    first = next(pieces_of(zoo_store, LITE, piece_bytes=10))
    assert first == (MANIFEST_FILE, (zoo_store / "digits-lite" / "v1" / MANIFEST_FILE).read_bytes()[:10])
    assert len(list(itertools.islice(pieces_of(zoo_store, LITE, piece_bytes=10), 5))) == 5
