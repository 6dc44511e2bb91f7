"""The command that hands its words on to the load tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cli import main

ROOT = Path(__file__).parents[4]


def holdfast(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "serving.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=60)


def test_it_hands_its_words_and_its_exit_code_on(tmp_path: Path) -> None:
    listed = holdfast(tmp_path, "chaos", "list")
    assert listed.returncode == 0, listed.stderr
    assert "haproxy_killed" in listed.stdout
    refused = holdfast(tmp_path, "chaos", "run", "nope", "--seed", "3")
    assert refused.returncode == 2
    assert refused.stderr.startswith("chaos: there is no scenario 'nope'")
    assert refused.stderr.count("\n") == 1


def test_without_the_load_tests_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("serving.commands.chaos.PROGRAM", "nothing_of_this_name")
    assert main(["chaos", "list"]) == 1
    assert "isn't installed" in capsys.readouterr().err
