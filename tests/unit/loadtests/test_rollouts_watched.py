"""The bad version that newcomers watch: what they are told, and what it says where nothing runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from loadtests.resilience.figures import Kind, Sample
from loadtests.rollouts.store import MADE
from loadtests.rollouts.watched import FILE, VERSION, main, told
from serving.rollout.file import parse_rollout


def sample(by: str, kind: Kind = Kind.OK) -> Sample:
    return Sample(due_s=0.0, took_s=0.01, kind=kind, by=by)


def test_one_line_says_who_answered_and_what_went_wrong() -> None:
    good = [sample("digits@v2")] * 3 + [sample("digits@fails-30"), sample("digits@v1", Kind.DEGRADED)]
    assert told(good) == (
        "5 requests, no errors; answers: 1 by digits@fails-30, 1 by digits@v1, 3 by digits@v2, 1 of them degraded"
    )
    assert told([sample("", Kind.LOST), sample("", Kind.FAILED)]) == "2 requests, 1 lost, 1 failed; answers: none"


def test_where_nobody_answers_it_says_how_to_start_somebody(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert main(["--port", str(port), "--store", str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert f"127.0.0.1:{port}" in complaint
    assert "make serve" in complaint
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_its_rollout_is_one_that_is_taken() -> None:
    spec = parse_rollout(Path(FILE).read_text())
    assert (spec.model, spec.version) == ("digits", VERSION)
    assert VERSION in MADE
