"""``holdfast node`` is ``ray start`` with what Holdfast wants of it."""

from __future__ import annotations

import os

import pytest

from serving import cli
from serving.cluster import RAY_ENVIRONMENT
from serving.commands.node import ray_start


def test_the_head_node_listens_where_it_was_told_to_and_has_no_dashboard() -> None:
    words = ray_start(ip="10.0.0.1", port=7000)
    assert {"--head", "--block", "--node-ip-address=10.0.0.1", "--port=7000"} <= set(words)
    assert "--include-dashboard=false" in words


def test_another_node_joins_it() -> None:
    words = ray_start(ip="10.0.0.2", join="10.0.0.1:7000", num_cpus=3, words=["--labels=zone=b"])
    assert {"--address=10.0.0.1:7000", "--num-cpus=3", "--node-ip-address=10.0.0.2"} <= set(words)
    assert "--head" not in words
    assert words[-1] == "--labels=zone=b"


def test_ray_gets_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    for name in RAY_ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "execv", lambda _, words: started.append(words))
    cli.main(["node", "--join", "10.0.0.1:1", "--ip", "10.0.0.2", "--", "--labels=zone=b"])
    assert started[0][1:4] == ["-m", "ray.scripts.scripts", "start"]
    assert started[0][-1] == "--labels=zone=b"
    assert {name: os.environ[name] for name in RAY_ENVIRONMENT} == RAY_ENVIRONMENT


@pytest.mark.parametrize("words", [["--head"], ["--ip", "10.0.0.1"], ["--head", "--join", "a:1", "--ip", "10.0.0.1"]])
def test_what_it_is_and_where_must_be_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["node", *words])
    assert end.value.code == 2
    assert "usage: holdfast node" in capsys.readouterr().err
