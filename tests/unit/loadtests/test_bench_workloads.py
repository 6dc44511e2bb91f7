import json
import struct
from pathlib import Path

import pytest

from loadtests.bench.errors import BenchError
from loadtests.bench.workloads import WORKLOADS, Answer, complaint, orientation, write_body


def json_answer(*values: float) -> Answer:
    return Answer(200, json.dumps({"outputs": [{"name": "y", "data": values}]}).encode(), None)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_body_is_always_the_same_bytes(workload: str, tmp_path: Path) -> None:
    first, second = (write_body(workload, tmp_path / place).file.read_bytes() for place in ("a", "b"))

    assert first == second


def test_the_mlp_body_holds_64_numbers_and_the_raw_file_the_same_ones(tmp_path: Path) -> None:
    body = write_body("mlp", tmp_path)
    data = json.loads(body.file.read_bytes())["inputs"][0]["data"]

    assert body.header_length is None
    assert struct.unpack("<64f", (tmp_path / "mlp.f32").read_bytes()) == pytest.approx(data)


def test_an_orientation_body_is_a_json_header_and_the_raw_tensor(tmp_path: Path) -> None:
    body = write_body(orientation(8), tmp_path)
    content = body.file.read_bytes()
    assert body.header_length is not None
    tensor = json.loads(content[: body.header_length])["inputs"][0]

    assert tensor["shape"] == [8, 3, 224, 224]
    assert tensor["parameters"]["binary_data_size"] == len(content) - body.header_length == 8 * 3 * 224 * 224 * 4
    assert content[body.header_length :] == (tmp_path / "orientation-b8.f32").read_bytes()


def test_an_unknown_workload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="known: mlp"):
        write_body("cats", tmp_path)


def test_a_right_answer_is_no_complaint() -> None:
    assert complaint(json_answer(0.25, 0.75), [0.25, 0.75]) is None


def test_a_right_binary_answer_is_no_complaint() -> None:
    header = b'{"outputs":[]}'
    answer = Answer(200, header + struct.pack("<2f", 0.25, 0.75), len(header))

    assert complaint(answer, [0.25, 0.75]) is None


def test_an_answer_that_was_batched_whole_is_understood() -> None:
    answer = Answer(200, b'[{"outputs": [{"data": [1.0]}]}]', None)

    assert complaint(answer, [1.0]) is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(503, b"no replica", None), "status 503: no replica"),
        (json_answer(0.25, 0.80), "wrong numbers"),
        (json_answer(0.25, float("nan")), "wrong numbers"),
        (json_answer(0.25), "1 numbers instead of 2"),
        (Answer(200, b"<html>", None), "unreadable"),
        (Answer(200, b'{"outputs": []}', None), "unreadable"),
        (Answer(200, b'{"outputs": 5}', None), "unreadable"),
    ],
)
def test_a_wrong_answer_is_a_complaint(answer: Answer, says: str) -> None:
    assert says in (complaint(answer, [0.25, 0.75]) or "")


def test_without_expectation_only_the_status_counts() -> None:
    assert complaint(Answer(200, b"anything", None), None) is None
