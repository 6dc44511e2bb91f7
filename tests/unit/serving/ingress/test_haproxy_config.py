"""The configuration that the real HAProxy gets."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from serving.ingress.haproxy import (
    ACCEPTING_PATH,
    BUFFER_OVERHEAD_BYTES,
    LISTENER,
    accepting_body,
    render_config,
)
from serving.ingress.keeper import binary
from serving.ingress.routes import find_target
from serving.settings import HttpSettings


def rendered(http: HttpSettings, folder: Path) -> str:
    return render_config(http, pidfile=folder / "pid", system="0123456789abcdef")


@pytest.mark.parametrize(
    "http",
    [
        HttpSettings(),
        HttpSettings(host="0.0.0.0", port=80, gateway_ports=(9000, 9000)),
        HttpSettings(host="::1", gateway_host="::1"),
        HttpSettings(idle_timeout_s=0.1, drain_timeout_s=0.1, max_connections=1),
        HttpSettings(idle_timeout_s=86_400, drain_timeout_s=86_400, resend_max_bytes=1 << 20),
        HttpSettings(resend_max_bytes=1, gateway_ports=(8100, 8163)),
    ],
    ids=["defaults", "everywhere", "IPv6", "small", "large", "many gateways"],
)
def test_haproxy_accepts_it(http: HttpSettings, socket_dir: Path) -> None:
    config = socket_dir / "haproxy.cfg"
    config.write_text(rendered(http, socket_dir))
    program, libraries = binary()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        checked = subprocess.run(
            [str(program), "-c", "-f", str(config)],
            env={**os.environ, "LD_LIBRARY_PATH": str(libraries), LISTENER: str(listener.fileno())},
            pass_fds=(listener.fileno(),),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    said = checked.stdout + checked.stderr
    assert checked.returncode == 0, said
    assert "[WARNING]" not in said
    assert "[ALERT]" not in said


def test_every_port_of_the_range_is_a_server_that_is_checked(tmp_path: Path) -> None:
    text = rendered(HttpSettings(gateway_host="10.0.0.1", gateway_ports=(8100, 8102)), tmp_path)
    backends = text.split("\nbackend ")[1:]
    assert [backend.split()[0] for backend in backends] == ["gateways", "gateways_late"]
    for backend in backends:
        assert re.findall(r"^    server (\S+) (\S+)$", backend, re.MULTILINE) == [
            ("g8100", "10.0.0.1:8100"),
            ("g8101", "10.0.0.1:8101"),
            ("g8102", "10.0.0.1:8102"),
        ]
        assert re.search(r"^    default-server check ", backend, re.MULTILINE)


def test_what_it_asks_the_gateways_is_a_path_that_they_answer(tmp_path: Path) -> None:
    text = rendered(HttpSettings(), tmp_path)
    assert f"uri {ACCEPTING_PATH}\n" in text
    [said] = set(re.findall(r"^    http-check expect string '(.+)'$", text, re.MULTILINE))
    assert said in accepting_body(True, "0123456789abcdef").decode()
    assert said not in accepting_body(True, "another").decode()
    assert find_target(ACCEPTING_PATH).endpoint == "accepting"


def test_a_request_up_to_the_promised_size_can_be_sent_again_to_any_other_gateway(tmp_path: Path) -> None:
    text = rendered(HttpSettings(resend_max_bytes=1000, gateway_ports=(8100, 8104)), tmp_path)
    assert f"tune.bufsize {1000 + BUFFER_OVERHEAD_BYTES}\n" in text
    assert "retries 5\n" in text
    assert "retry-on conn-failure empty-response\n" in text
    assert "option http-buffer-request\n" in text
    assert "option redispatch 1\n" in text


def test_its_own_errors_are_json_as_all_others(tmp_path: Path) -> None:
    text = rendered(HttpSettings(), tmp_path)
    errors = re.findall(r'http-error status (\d+) content-type application/json string "((?:[^"\\]|\\.)*)"', text)
    assert [status for status, _ in errors] == 2 * ["502", "503", "504"]
    for _, body in errors:
        assert list(json.loads(body.replace('\\"', '"'))) == ["error"]
