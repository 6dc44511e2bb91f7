"""``holdfast status``: whom it asks, what it says to people and programs, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.cli import main
from tests.admin_server import AdminServer, Answer, admin_server
from tests.redis_server import free_port
from tests.snapshots import calm, canary, outage

OVERVIEW = "GET /v2/holdfast/overview"


@pytest.fixture
def server() -> Iterator[AdminServer]:
    with admin_server() as fake:
        fake.answer = lambda _: (200, calm())
        yield fake


def test_fine_is_code_0_and_plain_text_where_nobody_sees_colours(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "-c", server.config(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("● fine ")
    assert "\x1b" not in out
    assert [asked.line for asked in server.asked] == [OVERVIEW]


def test_a_terminal_gets_colours(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.config(tmp_path)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["status", "-c", config]) == 0
    assert "\x1b[1;32mfine\x1b[0m" in capsys.readouterr().out


@pytest.mark.parametrize(("state", "code"), [("fine", 0), ("degraded", 1), ("bad", 1)])
def test_what_isnt_fine_is_code_1(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    server.answer = lambda _: (200, _with(state))
    assert main(["status", "-c", server.config(tmp_path)]) == code
    assert capsys.readouterr().out.startswith(f"● {state} ")


def _with(state: str) -> dict[str, object]:
    document: dict[str, object] = msgspec.json.decode(msgspec.json.encode(canary()))
    document["verdict"] = {"state": state, "reasons": [] if state == "fine" else ["something"]}
    return document


def test_programs_get_what_the_gateway_said_also_what_is_new_to_us(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _with("degraded") | {"of_tomorrow": [1]}
    server.answer = lambda _: (200, told)
    assert main(["status", "-c", server.config(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == told


def test_where_haproxy_is_gone_a_gateway_is_asked_and_that_is_bad(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = free_port()
    http = {"port": front, "gateway_ports": [server.port, server.port]}
    config = server.config(tmp_path, http=http, gateway={"replicas": 1})
    assert main(["status", "-c", config]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("● bad ")
    assert f"clients can't get in: nobody answers as Holdfast at 127.0.0.1:{front}" in lines[1]
    assert main(["status", "-c", config, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"]["state"] == "bad"


def test_an_outage_that_haproxy_tells_of_keeps_the_gateways_own_reasons(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admin_server() as haproxy:
        haproxy.answer = lambda _: (503, {"error": "no gateway can take the request now"})
        server.answer = lambda _: (200, outage())
        http = {"port": haproxy.port, "gateway_ports": [server.port, server.port]}
        assert main(["status", "-c", server.config(tmp_path, http=http, gateway={"replicas": 1})]) == 1
    out = capsys.readouterr().out
    assert "clients can't get in: no gateway can take the request now" in out
    assert "✗ the control plane is silent" in out


def test_nobody_there_is_code_2_and_says_whether_one_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = AdminServer()
    fake.port = free_port()
    gateway = free_port()
    config = fake.config(
        tmp_path, http={"port": fake.port, "gateway_ports": [gateway, gateway]}, gateway={"replicas": 1}
    )
    assert main(["status", "-c", config]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"holdfast status: nobody answers as Holdfast at 127.0.0.1:{fake.port}")
    assert err.endswith("no Holdfast runs with this state_dir here\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {"error": "there is nothing at this path"}), "there is nothing at this path"),
        ((200, {"hello": "world"}), "isn't one that this command understands"),
        ((200, b"<html>"), "isn't one that this command understands"),
    ],
)
def test_somebody_else_is_code_2(
    server: AdminServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Answer, words: str
) -> None:
    server.answer = lambda _: answer
    assert main(["status", "-c", server.config(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_a_configuration_that_cant_be_read_is_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "-c", str(tmp_path / "nothing.yaml")]) == 2
    assert "nothing.yaml: No such file" in capsys.readouterr().err
