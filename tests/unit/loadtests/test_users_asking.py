"""The bytes of requests."""

from __future__ import annotations

import json

import numpy as np

from loadtests.users.asking import Requests

IMAGE = [index / 64 for index in range(64)]


def parts(raw: bytes) -> tuple[str, bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}" in head.decode()
    return head.decode(), body


def test_the_same_digit_goes_as_json_and_as_binary() -> None:
    requests = Requests([IMAGE])
    _, body = parts(requests.json(0))
    assert json.loads(body)["inputs"][0]["data"] == IMAGE
    head, body = parts(requests.binary(0))
    length = int(head.partition("Inference-Header-Content-Length: ")[2].partition("\r\n")[0])
    assert json.loads(body[:length])["inputs"][0]["parameters"]["binary_data_size"] == len(body) - length
    assert np.frombuffer(body[length:], "<f4").tolist() == IMAGE


def test_requests_can_be_made_long() -> None:
    requests = Requests([IMAGE], body_bytes=5000)
    for raw in (requests.json(0), requests.binary(0), requests.sticky(0, 1)):
        assert len(parts(raw)[1]) == 5000


def test_keys_take_turns_and_a_deadline_is_carried() -> None:
    requests = Requests([IMAGE], timeout_s=0.5)
    first, second = (parts(requests.sticky(0, number))[0] for number in (0, 1))
    assert "x-sticky-key: user-0" in first
    assert "x-sticky-key: user-1" in second
    assert "x-request-timeout-us: 500000" in first


def test_poison_is_well_formed_and_not_a_number() -> None:
    data = json.loads(parts(Requests([IMAGE]).poison())[1])["inputs"][0]["data"]
    assert len(data) == 64
    assert np.isnan(data).all()
