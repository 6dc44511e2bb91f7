"""Ray's own command line brings up the same system, and Ray's own proxies may carry requests to it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.system import BLANK, System, free_ports

pytestmark = pytest.mark.integration


def environment(system: System) -> dict[str, str]:
    """What ``eval "$(holdfast env)"`` sets."""
    printed = subprocess.run(
        system.command("env"), env=system.environment, capture_output=True, text=True, check=True
    ).stdout
    words = [shlex.split(line) for line in printed.splitlines()]
    assert all(export == "export" for export, _ in words)
    return dict(setting.split("=", 1) for _, setting in words)


def test_serve_run_brings_it_up_behind_rays_proxies_too_and_takes_it_down(zoo_store: Path) -> None:
    system = System(zoo_store, models=[{"name": "digits", "versions": ["v2"]}], gateways=1)
    (rays_port,) = free_ports(1)
    system.document |= {"proxy_location": "EveryNode", "http_options": {"host": "127.0.0.1", "port": rays_port}}
    try:
        serve = Path(sys.executable).with_name("serve")
        system.start(str(serve), "run", str(system.config), environment=environment(system))
        system.wait_until_ready()
        answers = [system.infer("digits", BLANK, port=port) for port in (system.port, rays_port)]
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()
        refused = system.infer("digits", BLANK[:, :1], port=rays_port)
        assert (refused.status, "image" in refused.error()) == (400, True)
        system.stop()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{system.story()}") from None
    finally:
        system.remove()
