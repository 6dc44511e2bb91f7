"""The command: what goes to which stream, and how it ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cli import main
from serving.cluster import RAY_ENVIRONMENT
from serving.ingress.front import own_version

GOOD = "applications:\n- import_path: serving.app:build\n  args: {models: [{name: m, versions: [v1, v2]}]}\n"


def config(folder: Path, text: str) -> str:
    path = folder / "serve.yaml"
    path.write_text(text)
    return str(path)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"holdfast {own_version()}\n"


def test_a_right_configuration_is_said_to_be_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, GOOD)
    assert main(["check", "-c", path]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{path}: right; stable versions: m@v2\n", "")


def test_without_a_configuration_there_are_the_default_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "settings: right; stable versions: all of the registry\n"
    (tmp_path / "serve_config.yaml").write_text(GOOD)
    assert main(["check"]) == 0
    assert "m@v2" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "up"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("versions", "version"), "models[0]: "),
        ("applications: []", "applications: 0 of them"),
        ("a: [\n\nb:", "no YAML: "),
    ],
)
def test_a_wrong_one_is_one_line_on_stderr_and_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, text: str, said: str
) -> None:
    path = config(tmp_path, text)
    assert main([command, "-c", path]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"holdfast: {path}: {said}")
    assert err.count("\n") == 1


def test_a_configuration_that_was_named_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(tmp_path / "nothing.yaml")]) == 1
    assert capsys.readouterr().err.endswith("nothing.yaml: No such file or directory\n")


def test_what_is_in_the_way_of_starting_is_one_line_and_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    text = GOOD.replace("args: {", f"args: {{state_dir: {tmp_path}/file/state, ")
    assert main(["up", "-c", config(tmp_path, text)]) == 1
    assert capsys.readouterr().err == f"holdfast: state_dir: {tmp_path}/file/state: Not a directory\n"


@pytest.mark.parametrize("command", ["check", "up"])
def test_a_token_that_is_none_keeps_it_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "token").write_text("short\n")
    for name, said in (("token", "the token has 5 characters, not 16 to 4095"), ("nothing", "no such file")):
        text = GOOD.replace("args: {", f"args: {{state_dir: {tmp_path}/state, admin_token_file: {tmp_path}/{name}, ")
        assert main([command, "-c", config(tmp_path, text)]) == 1
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"holdfast: admin_token_file: {tmp_path}/{name}: {said}\n")
    assert not (tmp_path / "state").exists()


def test_a_token_that_everybody_may_read_is_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    path = config(tmp_path, GOOD.replace("args: {", f"args: {{admin_token_file: {tmp_path}/token, "))
    for mode, said in ((0o604, f"every user of this machine may read {tmp_path}/token; chmod 600 it\n"), (0o600, "")):
        (tmp_path / "token").chmod(mode)
        assert main(["check", "-c", path]) == 0
        assert capsys.readouterr().err.endswith(said)


def test_nothing_starts_on_what_may_be_half_of_a_backup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "restore-unfinished").write_text("")
    assert main(["up", "-c", config(tmp_path, GOOD.replace("args: {", f"args: {{state_dir: {tmp_path}, "))]) == 1
    assert "a restore into" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["check", "--fast"], ["models"]])
def test_a_wrong_command_shows_the_usage_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: holdfast")


def test_rays_environment_is_for_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert dict(shlex.split(line)[1].split("=", 1) for line in lines) == RAY_ENVIRONMENT
    assert all(line.startswith("export ") for line in lines)


def test_looking_at_a_configuration_imports_no_runtime(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom serving.cli import main\n"
        f"main(['check', '-c', {config(tmp_path, GOOD)!r}])\n"
        "print([name for name in ('ray', 'torch', 'onnxruntime') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "[]"


def test_whoever_has_read_enough_gets_no_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.cli", "env"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")
