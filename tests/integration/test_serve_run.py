"""Ray's own command line brings up the same system, and Ray's own proxies may carry requests to it."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.system import BLANK, GATEWAY, HAPROXY, HOST, System, eventually, free_ports

pytestmark = pytest.mark.integration

BIN = Path(sys.executable).parent


@pytest.fixture
def system(zoo_store: Path) -> Iterator[System]:
    system = System(zoo_store, models=[{"name": "digits", "versions": ["v2"]}], gateways=1)
    yield system
    system.remove()


def environment(system: System) -> dict[str, str]:
    """What ``eval "$(holdfast env)"`` sets."""
    printed = subprocess.run(
        system.command("env"), env=system.environment, capture_output=True, text=True, check=True
    ).stdout
    words = [shlex.split(line) for line in printed.splitlines()]
    assert all(export == "export" for export, _ in words)
    return dict(setting.split("=", 1) for _, setting in words)


def test_serve_run_brings_it_up_behind_rays_proxies_too_and_takes_it_down(system: System) -> None:
    (rays_port,) = free_ports(1)
    system.document |= {"proxy_location": "EveryNode", "http_options": {"host": HOST, "port": rays_port}}
    system.start(str(BIN / "serve"), "run", str(system.config), environment=environment(system))
    system.wait_until_ready()
    answers = [system.infer("digits", BLANK, port=port) for port in (system.port, rays_port)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    refused = system.infer("digits", BLANK[:, :1], port=rays_port)
    assert (refused.status, "image" in refused.error()) == (400, True)
    assert system.stop() == 0


def test_serve_deploy_brings_it_up_on_a_ray_that_runs_and_serve_shutdown_takes_it_down(system: System) -> None:
    gcs, dashboard, clients, agent = free_ports(4)
    ports = f"--port={gcs} --dashboard-port={dashboard} --ray-client-server-port={clients}"
    more = f"--dashboard-host={HOST} --dashboard-agent-listen-port={agent} --min-worker-port=0 --max-worker-port=0"
    ray = [str(BIN / "ray"), "start", "--head", "--block", *ports.split(), *more.split()]
    system.start(*ray, environment=environment(system))

    def has_dashboard() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return system.ask("GET", "/api/serve/applications/", port=dashboard).status == 200
        return False

    eventually(has_dashboard, "Ray's dashboard answers")
    serve(system, dashboard, "deploy", str(system.config))
    system.wait_until_ready()
    assert system.infer("digits", BLANK).status == 200
    serve(system, dashboard, "shutdown", "--yes")
    eventually(lambda: not system.pids(GATEWAY) and not system.pids(HAPROXY), "gateways and HAProxy have ended")
    system.stop(signal.SIGTERM)


def serve(system: System, dashboard: int, *command: str) -> None:
    done = subprocess.run(
        [str(BIN / "serve"), *command, "--address", f"http://{HOST}:{dashboard}"],
        env={**os.environ, **system.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
