"""Every answer to an inference says what the request is known by, also when it is refused or broke."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from serving.errors import Internal
from serving.log_lines import FIELDS
from serving.request.pipeline import InferCall, Reply
from tests.fakes import FakeClock

if TYPE_CHECKING:
    from tests.unit.serving.ingress.conftest import Site

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
INFER = json.dumps({"inputs": [X]}).encode()
NAMED = json.dumps({"id": "a kelp", "inputs": [X]}).encode()
PATH = "/v2/models/m/infer"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-00"


@pytest.mark.parametrize(
    ("body", "headers", "known_as"),
    [
        (INFER, {"x-request-id": "order-7"}, "order-7"),
        (NAMED, {"x-request-id": "order-7"}, "order-7"),
        (NAMED, {}, "a kelp"),
        (NAMED, {"x-request-id": "a\x00b"}, "a kelp"),
        (INFER, {}, "gw-1"),
        (INFER, {"x-request-id": "x" * 129}, "gw-1"),
    ],
    ids=["the header", "the header before the body", "the body", "no header that may be one", "neither", "too long"],
)
async def test_a_good_answer_says_it(
    clock: FakeClock, site: Site, body: bytes, headers: dict[str, str], known_as: str
) -> None:
    await site.start()
    response = await site.ask("POST", PATH, body, headers)
    assert (response.status, response.headers["x-request-id"]) == (200, known_as)
    await site.gateway.close()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (("POST", PATH, b"{"), 400),
        (("POST", "/v2/models/unknown/infer", INFER), 404),
        (("GET", PATH, b""), 405),
        (("POST", PATH, INFER, {"content-encoding": "br"}), 415),
    ],
)
async def test_an_error_says_it(clock: FakeClock, site: Site, asked: tuple[Any, ...], status: int) -> None:
    await site.start()
    method, path, body, *headers = asked
    response = await site.ask(method, path, body, {"x-request-id": "order-7", **dict(*headers)})
    assert (response.status, response.headers["x-request-id"]) == (status, "order-7")
    await site.gateway.close()


async def test_of_a_body_that_is_a_request_in_vain_the_error_says_its_id(clock: FakeClock, site: Site) -> None:
    await site.start()
    site.links["m@v1"].replicas = 0
    response = await site.ask("POST", PATH, NAMED)
    assert (response.status, response.headers["x-request-id"]) == (503, "a kelp")
    await site.gateway.close()


async def test_whatever_is_no_inference_has_none(clock: FakeClock, site: Site) -> None:
    response = await site.ask("GET", "/v2", headers={"x-request-id": "order-7"})
    assert "x-request-id" not in response.headers


class Broken:
    """A pipeline with a defect."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def infer(self, call: InferCall) -> Reply:
        raise self._error


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), Internal("a defect")])
async def test_the_line_about_a_defect_says_it_too(
    clock: FakeClock, site: Site, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    site.routes._pipeline = Broken(error)  # type: ignore[assignment]  # all of one that is asked
    response = await site.ask("POST", PATH, INFER, {"x-request-id": "order-7", "traceparent": TRACEPARENT})
    assert (response.status, response.headers["x-request-id"]) == (500, "order-7")
    (record,) = caplog.records
    assert getattr(record, FIELDS) == {"request_id": "order-7", "trace_id": TRACE_ID}
