import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from loadtests.bench.install import MODELS, PEERS
from loadtests.bench.lineup import SYSTEMS
from loadtests.bench.workloads import IMAGE_8, PAYLOADS, WIDE, Answer, Payload, complaint, write_body, write_input


@pytest.fixture(scope="module")
def protocol() -> ModuleType:
    """What the peers read and write with, which runs in their environments and is imported by nobody here."""
    spec = importlib.util.spec_from_file_location("bench_peers_protocol", PEERS / "protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("payload", [WIDE, IMAGE_8], ids=lambda payload: payload.name)
def test_a_peer_reads_the_very_tensor_that_was_sent(protocol: ModuleType, payload: Payload, tmp_path: Path) -> None:
    body = write_body(payload, tmp_path)
    length = None if body.header_length is None else str(body.header_length)

    x = protocol.read(body.file.read_bytes(), length)

    assert x.shape == (payload.rows, *payload.shape)
    assert x.dtype == np.float32
    assert x.tobytes() == write_input(payload, tmp_path).tobytes()


def test_a_peer_answers_what_is_understood(protocol: ModuleType) -> None:
    body = protocol.write("mlp", "y", np.array([[0.25, 0.75]], dtype=np.float32))

    assert complaint(Answer(200, body, None), [0.25, 0.75]) is None


def test_mlserver_has_a_folder_for_every_model_that_is_asked_of_it() -> None:
    folders = {json.loads(file.read_text())["name"] for file in PEERS.glob("mlserver/*/model-settings.json")}
    asked = {path.split("/")[3] for s in SYSTEMS if s.name.startswith("mlserver") for path in s.paths.values()}

    assert folders == asked


def test_every_payload_is_for_a_model_that_setup_makes() -> None:
    assert {payload.model for payload in PAYLOADS.values()} == set(MODELS)
