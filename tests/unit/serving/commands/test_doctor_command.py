"""``holdfast doctor``: its code, its JSON, and lines that fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.registry import Registry
from serving.cli import main
from serving.commands.doctor import doctor_lines
from serving.commands.terminal import drawn
from serving.doctor.checks import Check
from tests.fakes import publish_version
from tests.redis_server import free_port


def config(folder: Path) -> str:
    http = {"port": free_port(), "gateway_ports": [28_500, 28_507], "max_connections": 100}
    arguments = {"state_dir": str(folder / "state"), "http": http}
    path = folder / "serve.yaml"
    path.write_text(json.dumps({"applications": [{"import_path": "serving.app:build", "args": arguments}]}))
    return str(path)


def test_a_machine_that_is_fit_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_version(Registry(tmp_path / "state" / "models"), "m", "v1")
    assert main(["doctor", "-c", config(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "✓ store digests       as published: 1 of 1" in out
    assert out.splitlines()[-1].startswith("fit")
    assert "\x1b" not in out, "colours are for terminals"


def test_one_that_isnt_ends_with_1_and_programs_get_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "-c", config(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["fit"] is False
    (bad,) = (check for check in told["checks"] if check["state"] == "bad")
    assert (bad["name"], bad["advice"]) == ("store digests", "publish one: `holdfast models publish`")


def test_warnings_count_only_if_they_are_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    publish_version(Registry(tmp_path / "state" / "models"), "m", "v1")
    (tmp_path / "token").write_text("0123456789abcdef\n")
    (tmp_path / "token").chmod(0o644)
    path = config(tmp_path)
    text = Path(path).read_text().replace('"args": {', f'"args": {{"admin_token_file": "{tmp_path}/token", ')
    Path(path).write_text(text)
    assert main(["doctor", "-c", path]) == 0
    assert main(["doctor", "-c", path, "--strict"]) == 1
    assert f"chmod 600 {tmp_path}/token" in capsys.readouterr().out, "one can't copy it"


def test_lines_fit_and_hold_no_control_characters() -> None:
    checks = [
        Check("short", "ok", "fine"),
        Check("a\x1b[31mname", "warn", "seen " * 40, "do " * 60),
        Check("third", "bad", "/a/path" * 30, "mend it"),
    ]
    for width in (40, 80, 120):
        lines = [drawn(line, width, color=False) for line in doctor_lines(checks, width)]
        assert all(len(line) <= width for line in lines)
        assert not any("…" in line or "\x1b" in line for line in lines), "something was cut off"
        assert lines[-1] == "not fit: 1 bad, 1 warning, 1 ok"
