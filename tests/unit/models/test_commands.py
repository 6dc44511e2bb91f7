from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from models.commands import add_parser


class Done(NamedTuple):
    code: int
    out: str
    err: str


Holdfast = Callable[..., Done]


@pytest.fixture
def holdfast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Holdfast:
    """``holdfast("list")`` runs ``holdfast models list`` on a store of its own."""

    def run(*words: str | Path) -> Done:
        parser = argparse.ArgumentParser("holdfast")
        add_parser(
            parser.add_subparsers(required=True),
            store_options=lambda command: None,
            store_of=lambda args: tmp_path / "store",
        )
        try:
            args = parser.parse_args(["models", *map(str, words)])
            code = args.run(args)
        except SystemExit as stopped:
            code = int(str(stopped.code))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def test_a_version_is_published_listed_shown_and_verified(holdfast: Holdfast, sum_onnx: Path) -> None:
    published = holdfast("publish", sum_onnx, "--name", "m", "--version", "v1", "--labels", "a, b", "--deterministic")
    assert published.code == 0
    assert published.out.startswith("m@v1 published: sha256:")
    again = holdfast("publish", sum_onnx, "--name", "m", "--version", "v1", "--labels", "a,b", "--deterministic")
    assert again.out.startswith("m@v1 was there already: sha256:")
    assert "m@v1  onnxruntime  batched, deterministic" in holdfast("list").out
    shown = holdfast("show", "m").out
    for text in ("m@v1", "a FP32 [-1, 2]", "y FP32 [-1, 2]", "labels   a, b", "source   tiny.onnx", "created  20"):
        assert text in shown
    assert holdfast("verify").out == "m@v1 is as it was published\n"


def test_programs_get_json(holdfast: Holdfast, sum_onnx: Path) -> None:
    published = json.loads(holdfast("publish", sum_onnx, "--name", "m", "--version", "v1", "--json").out)
    assert published["digest"].startswith("sha256:")
    assert published["signature"]["batched"] is True
    assert json.loads(holdfast("show", "m@v1", "--json").out) == published
    assert json.loads(holdfast("show", "m", "--json").out) == [published]
    assert json.loads(holdfast("list", "--json").out) == [published]
    assert json.loads(holdfast("verify", "m@v1", "--json").out) == [{"name": "m@v1", "ok": True, "fault": None}]


def test_verify_tells_about_every_bad_version_and_goes_on(holdfast: Holdfast, sum_onnx: Path, tmp_path: Path) -> None:
    for version in ("v1", "v2", "v3"):
        holdfast("publish", sum_onnx, "--name", "m", "--version", version)
    for version in ("v1", "v3"):
        (tmp_path / "store" / "m" / version / "golden.npz").write_bytes(b"")
    done = holdfast("verify", "m")
    assert done.code == 1
    assert done.out == "m@v2 is as it was published\n"
    assert [line.partition(" has ")[0] for line in done.err.splitlines()] == [
        "holdfast models verify: m@v1: 'golden.npz'",
        "holdfast models verify: m@v3: 'golden.npz'",
    ]
    assert [row["ok"] for row in json.loads(holdfast("verify", "--json").out)] == [False, True, False]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("publish", "nowhere.onnx", "--name", "m", "--version", "v1"), "there is no file 'nowhere.onnx'"),
        (("publish", "model.pkl", "--name", "m", "--version", "v1"), "doesn't end in .onnx or .pt2"),
        (("publish", "nowhere.onnx", "--name", "../m", "--version", "v1"), "model '../m' isn't a name"),
        (("show", "m@v1"), "there is no m@v1"),
        (("show", "m"), "there is no version of m"),
        (("verify", "../m"), "model '../m' isn't a name"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_1(
    holdfast: Holdfast, words: tuple[str, ...], text: str
) -> None:
    done = holdfast(*words)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"holdfast models {words[0]}: ")
    assert text in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("publish",), ("publish", "f.onnx"), ("show",), ("destroy", "m")])
def test_wrong_usage_exits_with_2(holdfast: Holdfast, words: tuple[str, ...]) -> None:
    assert holdfast(*words).code == 2


def test_an_empty_store_is_no_error(holdfast: Holdfast) -> None:
    assert holdfast("list").out.startswith("no versions in ")
    assert holdfast("list", "--json").out == "[]\n"
    assert holdfast("verify").code == 0
