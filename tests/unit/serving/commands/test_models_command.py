from __future__ import annotations

from pathlib import Path

import pytest

from serving.cli import main

CONFIG = "applications:\n- import_path: serving.app:build\n  args: {store: elsewhere}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["models", "list", *options]) == 0
    return capsys.readouterr().out


def test_without_settings_the_store_is_beside_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == f"no versions in {folder}/.holdfast/models\n"


def test_the_settings_say_where_the_store_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "serve_config.yaml").write_text(CONFIG)
    assert listed(capsys) == f"no versions in {folder}/elsewhere\n"
    (folder / "other.yaml").write_text(CONFIG.replace("elsewhere", "there"))
    assert listed(capsys, "--config", "other.yaml") == f"no versions in {folder}/there\n"


def test_a_store_that_is_named_needs_no_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "serve_config.yaml").write_text("nonsense")
    assert listed(capsys, "--store", "mine") == "no versions in mine\n"
    assert main(["models", "list"]) == 1
    assert "serve_config.yaml" in capsys.readouterr().err
