"""Versions come and go while the system runs, and nobody else notices."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.publishing import publish_file
from models.registry import Registry
from tests.integration.system import BLANK, System, Traffic, infer_document, infer_path

pytestmark = pytest.mark.integration


def test_versions_come_and_go_without_a_failed_request(system: System) -> None:
    """The stable version: what the settings call so; while that is gone, the one that was loaded last."""
    with Traffic(system, "digits", "digits-lite") as traffic:
        traffic.wait_for_more()
        assert system.unload("digits", "v2").status == 200
        assert system.stable("digits") == "v1"
        refused = system.infer("digits@v2", BLANK)
        assert (refused.status, "v2" in refused.error()) == (404, True)
        state, reason = system.index()["digits@v2"]
        assert (state, "unload" in reason) == ("UNAVAILABLE", True)
        assert system.ready_versions() == {"digits@v1", "digits-lite@v1", "orientation@v1"}

        assert system.load("digits", "v2").status == 200
        assert system.infer("digits@v2", BLANK).status == 200
        assert system.stable("digits") == "v2"

        assert system.unload("digits", "v1").status == 200
        assert system.stable("digits") == "v2"
        assert system.load("digits", "v1").status == 200
        assert system.load("digits", "v1").status == 200  # there already
        assert system.infer("digits@v1", BLANK).status == 200
        assert system.stable("digits") == "v2"  # loading alone makes no version the stable one
        traffic.wait_for_more()
    assert traffic.failures() == []


def test_what_is_not_there_can_neither_be_loaded_nor_unloaded(system: System) -> None:
    for command in (system.load, system.unload):
        for model, version in (("digits", "v9"), ("no-such-model", None), ("no-such-model", "v1")):
            answer = command(model, version)
            assert answer.status == 404, answer
            assert model in answer.error()
    for parameters in ({"version": 9}, {"config": "{}"}):
        answer = system.ask("POST", "/v2/repository/models/digits/load", {"parameters": parameters})
        assert (answer.status, next(iter(parameters)) in answer.error()) == (400, True)


def test_a_corrupt_version_is_refused_and_its_reason_shown(system: System) -> None:
    registry = Registry(system.store)
    source = registry.directory("digits", "v2") / "model.onnx"
    manifest = publish_file(registry, source, "digits", "v3")
    (published,) = (file.sha256 for file in manifest.files if file.path == "model.onnx")
    spoilt = registry.directory("digits", "v3") / "model.onnx"
    try:
        raw = bytearray(spoilt.read_bytes())
        raw[len(raw) // 2] ^= 1
        spoilt.chmod(0o644)
        spoilt.write_bytes(raw)
        with Traffic(system, "digits", "digits-lite") as traffic:
            traffic.wait_for_more()
            answer = system.load("digits", "v3")
            traffic.wait_for_more()
        assert answer.status == 409
        assert "model.onnx" in answer.error()
        digests = set(re.findall(r"[0-9a-f]{64}", answer.error()))
        assert published in digests
        assert len(digests) == 2
        for port in system.gateway_ports():
            state, reason = system.index(port)["digits@v3"]
            assert state == "UNAVAILABLE"
            assert digests == set(re.findall(r"[0-9a-f]{64}", reason))
        assert system.infer("digits@v3", BLANK).status == 404
        assert traffic.failures() == []
    finally:
        shutil.rmtree(spoilt.parent)


def test_with_no_model_left_nothing_is_ready_and_everything_lives(system: System) -> None:
    for model in ("digits", "digits-lite", "orientation"):
        assert system.unload(model).status == 200
    for port in (system.port, *system.gateway_ports()):
        ready = system.ask("GET", "/v2/health/ready", port=port)
        assert (ready.status, ready.json()) == (503, {"ready": False})
        assert system.ask("GET", "/v2/health/live", port=port).json() == {"live": True}
        assert system.ask("POST", infer_path("digits"), infer_document("digits", BLANK), port=port).status == 404
        assert system.ready_versions(port) == set()
    with ThreadPoolExecutor() as threads:  # different models are loaded at the same time
        loads = [("digits", "v2"), ("digits-lite", "v1"), ("orientation", None)]
        answers = list(threads.map(lambda load: system.load(*load), loads))
    assert [answer.status for answer in answers] == [200, 200, 200]
    for port in (system.port, *system.gateway_ports()):
        assert system.ask("GET", "/v2/health/ready", port=port).json() == {"ready": True}
    assert system.stable("digits") == "v2"
