"""A system with a token: through HAProxy and past it, only who shows it changes anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton

from tests.integration.system import BLANK, GATEWAY, HOST, RECOVERY_S, System, eventually

pytestmark = pytest.mark.integration

OLD, NEW = "an-old-token-of-some-length", "a-new-token-of-some-length"
MODELS = ({"name": "digits", "versions": ["v1"]},)
LOAD = "/v2/repository/models/digits/load"
V2: dict[str, Any] = {"parameters": {"version": "v2"}}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(zoo_store: Path) -> Iterator[System]:
    system = System(zoo_store, models=MODELS)
    try:
        token = system.folder / "token"
        token.write_text(f"{OLD}\n")
        token.chmod(0o600)
        system.args["admin_token_file"] = str(token)
        system.start()
        system.wait_until_ready()
        yield system
        assert system.stop() == 0
        assert system.traces() == []
    finally:
        system.remove()


def test_the_token_is_asked_for_and_passes_through_haproxy(guarded: System) -> None:
    for port in (guarded.port, *guarded.gateway_ports()):
        for headers in ({}, bearer(NEW)):
            answer = guarded.ask("POST", LOAD, V2, headers, port=port)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), answer
        page = guarded.ask("POST", LOAD, V2, bearer(OLD) | {"Origin": "http://elsewhere.example"}, port=port)
        assert page.status == 403, page
    assert guarded.ready_versions() == {"digits@v1"}
    assert guarded.ask("POST", LOAD, V2, bearer(OLD)).status == 200
    assert guarded.ready_versions() == {"digits@v1", "digits@v2"}
    client = triton.InferenceServerClient(f"{HOST}:{guarded.port}")
    client.unload_model("digits", headers=bearer(OLD))
    client.load_model("digits", headers=bearer(OLD))
    with pytest.raises(triton.InferenceServerException, match="401"):
        client.unload_model("digits")
    client.close()
    ours = {f"http://{HOST}:{guarded.port}": 200, f"http://{HOST}:{guarded.port + 1}": 403}
    for origin, status in ours.items():
        assert guarded.ask("POST", LOAD, V2, bearer(OLD) | {"Origin": origin}).status == status


def test_what_was_refused_is_counted(guarded: System) -> None:
    def counted() -> set[str]:
        samples = guarded.metrics()
        return {dict(sample.labels)["reason"] for sample in samples if sample.name == "holdfast_admin_refused_total"}

    eventually(lambda: counted() == {"missing", "wrong", "origin"}, "each reason is counted", within_s=RECOVERY_S)


def test_a_new_token_counts_without_a_restart_and_the_command_line_takes_it(guarded: System) -> None:
    fresh = guarded.folder / "token.new"
    fresh.write_text(f"{NEW}\n")
    fresh.chmod(0o600)
    fresh.replace(guarded.folder / "token")

    ports = guarded.gateway_ports()
    eventually(
        lambda: all(guarded.ask("POST", LOAD, V2, bearer(OLD), port=port).status == 401 for port in ports),
        "every gateway has read the new token",
        within_s=10,
    )
    assert guarded.ask("POST", LOAD, V2, bearer(NEW)).status == 200
    before = guarded.pids(GATEWAY)
    done = guarded.run("gateways", "restart")
    assert (done.returncode, done.stdout) == (0, "restarted 2 gateways\n"), done
    assert not set(before) & set(guarded.pids(GATEWAY))


def test_a_gateway_starts_without_the_file_and_only_changes_are_refused(guarded: System) -> None:
    (guarded.folder / "token").unlink()
    first, *_ = guarded.pids(GATEWAY)
    os.kill(first, 9)
    eventually(
        lambda: first not in guarded.pids(GATEWAY) and len(guarded.gateway_ports()) == 2,
        "two gateways take requests again",
        within_s=RECOVERY_S,
    )
    assert guarded.infer("digits", BLANK).status == 200
    for port in guarded.gateway_ports():
        refused = guarded.ask("POST", LOAD, V2, bearer(NEW), port=port)
        assert (refused.status, "admin_token_file" in refused.error()) == (401, True)
        assert guarded.ask("GET", "/v2/holdfast/gateways", port=port).status == 200
