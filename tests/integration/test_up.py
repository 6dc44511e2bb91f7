"""``holdfast up`` says in one line why it can't start, and stops as it was told to."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.system import BLANK, HOST, System, eventually

pytestmark = pytest.mark.integration

QUICKLY_S = 30.0
"""Nothing of this starts Ray, which alone would take as long on a busy machine."""
LITE = ({"name": "digits-lite", "versions": ["v1"]},)


@pytest.fixture
def system(zoo_store: Path) -> Iterator[System]:
    system = System(zoo_store, models=LITE, gateways=1)
    yield system
    system.remove()


def refusal(system: System, *arguments: str) -> str:
    """The one line that ``up`` says on standard error."""
    system.write_config()
    began = time.monotonic()
    done = subprocess.run(
        system.command("up", *(arguments or ("-c", str(system.config)))),
        cwd=system.folder,
        env=system.environment,
        capture_output=True,
        text=True,
        timeout=QUICKLY_S,
        check=False,
    )
    assert done.returncode not in (0, None), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("holdfast: ")
    assert time.monotonic() - began < QUICKLY_S
    assert system.processes() == []
    return line


def test_a_port_in_use_is_named(system: System) -> None:
    with socket.create_server((HOST, system.port)):
        line = refusal(system)
    assert "http.port" in line
    assert f"{HOST}:{system.port}" in line


def test_too_few_free_gateway_ports_are_named(system: System) -> None:
    with contextlib.ExitStack() as taken:
        for port in system.range:
            taken.enter_context(socket.create_server((HOST, port)))
        line = refusal(system)
    assert "http.gateway_ports" in line
    assert f"{system.range[0]}-{system.range[-1]}" in line


def test_a_missing_configuration_file_is_named(system: System) -> None:
    assert "no-such-file.yaml" in refusal(system, "-c", "no-such-file.yaml")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda args: args.update(portt=1), "portt"),
        (lambda args: args["http"].update(prot=1), "http: unknown setting `prot`"),
        (lambda args: args["http"].update(port="eighty"), "http.port"),
        (lambda args: args["models"][0].update(replicas=0), "models[0].replicas"),
        (lambda args: args["models"][0].update(stable="v7"), "v7"),
        (lambda args: args["models"].append({"name": "nobody", "versions": ["v1"]}), "nobody@v1"),
        (lambda args: args.update(store="no/such/store"), "digits-lite@v1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_is_named(system: System, spoil: Callable[[dict[str, Any]], None], said: str) -> None:
    spoil(system.args)
    assert said in refusal(system)


def test_it_stops_while_it_starts_and_starts_right_after_and_only_once_and_withdraws_for_good(system: System) -> None:
    system.args["models"] = [{**LITE[0], "fallback": [{"type": "cache"}]}]
    system.start()
    eventually(lambda: "starting 1 gateway" in system.log.read_text(), "Ray is there, models aren't")
    assert system.stop(signal.SIGTERM) == 0
    system.start()
    system.wait_until_ready()
    assert system.infer("digits-lite", BLANK).status == 200

    other = System(system.store, models=LITE, gateways=1)
    other.args["state_dir"] = system.args["state_dir"]
    try:
        assert "another Holdfast uses" in refusal(other)
    finally:
        other.remove()
    assert system.infer("digits-lite", BLANK).status == 200

    withdraw_its_answers(system)
    assert system.stop(signal.SIGTERM) == 0
    system.start()
    system.wait_until_ready()
    assert cached(system) == 1, "it is still there"
    assert system.unload("digits-lite").status == 200
    assert system.infer("digits-lite", BLANK).status == 503, "and still withdrawn"
    assert system.stop(signal.SIGINT) == 0


def cached(system: System) -> int:
    stats: dict[str, int] = system.ask("GET", "/v2/holdfast/status").json()["cache"]
    return stats["entries"]


def withdraw_its_answers(system: System) -> None:
    """Those of the only version, one of which is in the cache."""
    eventually(lambda: cached(system) == 1, "the answer is cached")
    assert system.unload("digits-lite").status == 200
    answer = system.infer("digits-lite", BLANK)
    assert (answer.status, answer.headers["holdfast-degraded"]) == (200, "cache")
    assert system.load("digits-lite", "v1").status == 200
    withdraw = {"parameters": {"version": "v1", "withdraw": True}}
    assert system.ask("POST", "/v2/repository/models/digits-lite/unload", withdraw).status == 200
    assert system.infer("digits-lite", BLANK).status == 503
