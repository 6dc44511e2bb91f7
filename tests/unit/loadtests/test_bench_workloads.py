import base64
import json
import struct
from pathlib import Path

import pytest

from loadtests.bench.errors import BenchError
from loadtests.bench.workloads import (
    IMAGE_1,
    IMAGE_8,
    MLP,
    PAYLOADS,
    WIDE,
    Answer,
    Form,
    Payload,
    complaint,
    payload_named,
    write_body,
    write_input,
)


def json_answer(*values: float) -> Answer:
    return Answer(200, json.dumps({"outputs": [{"name": "y", "data": values}]}).encode(), None)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=lambda payload: payload.name)
def test_a_body_is_always_the_same_bytes(payload: Payload, tmp_path: Path) -> None:
    first, second = (write_body(payload, tmp_path / place).file.read_bytes() for place in ("a", "b"))

    assert first == second


@pytest.mark.parametrize(("payload", "count"), [(MLP, 64), (WIDE, 100_000)])
def test_a_json_body_holds_just_the_numbers_of_the_raw_file(payload: Payload, count: int, tmp_path: Path) -> None:
    body = write_body(payload, tmp_path, binary_form=Form.RAW)  # which says nothing to who isn't binary
    tensor = json.loads(body.file.read_bytes())["inputs"][0]

    assert (body.content_type, body.header_length) == ("application/json", None)
    assert tensor["shape"] == [1, count]
    assert struct.pack(f"<{count}f", *tensor["data"]) == (tmp_path / f"{payload.name}.f32").read_bytes()


def test_a_binary_body_is_a_json_header_and_the_raw_tensor_where_a_float_may_begin(tmp_path: Path) -> None:
    body = write_body(IMAGE_8, tmp_path)
    content = body.file.read_bytes()
    assert body.header_length is not None
    tensor = json.loads(content[: body.header_length])["inputs"][0]

    assert body.header_length % 8 == 0
    assert tensor["shape"] == [8, 3, 224, 224]
    assert tensor["parameters"]["binary_data_size"] == len(content) - body.header_length == 8 * 3 * 224 * 224 * 4
    assert content[body.header_length :] == (tmp_path / "image-8.f32").read_bytes()


def test_every_form_of_an_image_carries_the_same_tensor(tmp_path: Path) -> None:
    raw = write_input(IMAGE_1, tmp_path).tobytes()
    as_base64 = write_body(IMAGE_1, tmp_path, binary_form=Form.BASE64)
    as_raw = write_body(IMAGE_1, tmp_path, binary_form=Form.RAW)
    tensor = json.loads(as_base64.file.read_bytes())["inputs"][0]

    assert tensor["datatype"] == "BYTES"
    assert base64.b64decode(tensor["data"][0]) == raw
    assert as_raw.file.read_bytes() == raw
    assert (as_base64.content_type, as_raw.content_type) == ("application/json", "application/octet-stream")
    assert as_base64.file != as_raw.file


def test_an_unknown_payload_is_refused() -> None:
    with pytest.raises(BenchError, match="known: mlp, wide, image-1, image-8"):
        payload_named("cats")


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
