"""HTTP as clients really send it, good and bad, through HAProxy and straight at a gateway's own listener."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from models.zoo.orientation import pages
from tests.integration.system import BODY_MAX_BYTES, HOST, Answer, System, infer_document

pytestmark = pytest.mark.integration

IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64)
GOOD = json.dumps(infer_document("digits", IMAGE)).encode()
INFER = "/v2/models/digits/infer"


@pytest.fixture(params=["haproxy", "gateway"])
def port(request: pytest.FixtureRequest, system: System) -> int:
    return system.port if request.param == "haproxy" else system.gateway_ports()[0]


class Wire:
    """A connection of which every byte is ours to choose."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def status(self) -> int:
        """The status of a response's first line; an interim one's empty headers are read as well."""
        status = int(self._file.readline().split()[1])
        if status == 100:
            assert self._headers() == {}
        return status

    def answer(self, *, head: bool = False) -> Answer:
        status = self.status()
        headers = self._headers()
        return Answer(status, headers, b"" if head else self._file.read(int(headers["content-length"])))

    def ended(self) -> bool:
        """Whether the other side closes the connection, and sends nothing more before."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _headers(self) -> dict[str, str]:
        lines = iter(self._file.readline, b"\r\n")
        pairs = (line.decode("latin-1").rstrip("\r\n").partition(": ") for line in lines)
        return {name.lower(): value for name, _, value in pairs}


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with contextlib.closing(Wire(port)) as wire:
        yield wire


def head(method: str = "POST", path: str = INFER, **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: holdfast"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def post(body: bytes = GOOD) -> bytes:
    return head(Content_Type="application/json", Content_Length=len(body)) + body


def chunked(body: bytes, size: int) -> bytes:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def is_good(answer: Answer) -> bool:
    return answer.status == 200 and answer.json()["model_version"] == "v2"


# What is refused


def spoilt(**changes: Any) -> dict[str, Any]:
    document = infer_document("digits", IMAGE)
    document["inputs"][0].update(changes)
    return document


class Bad(NamedTuple):
    """A request, the status it gets, and what the error names."""

    status: int
    said: str
    path: str = INFER
    body: Any = None
    headers: Mapping[str, str] = MappingProxyType({})
    method: str = "POST"


BAD = (
    Bad(400, "the body isn't valid JSON", body=b"{"),
    Bad(400, "image", body={"inputs": []}),
    Bad(400, "picture", body=spoilt(name="picture")),
    Bad(400, "input 'image': shape", body=spoilt(shape=[1, 63])),
    Bad(400, "input 'image': datatype", body=spoilt(datatype="INT64")),
    Bad(400, "inputs[0].data", body=spoilt(data=[0.5] * 63)),
    Bad(400, "inputs[0].data", body=spoilt(data=[True] * 64)),
    Bad(400, "parameters.timeout", body=spoilt() | {"parameters": {"timeout": -1}}),
    Bad(400, "x-request-timeout-us", body=GOOD, headers={"x-request-timeout-us": "soon"}),
    Bad(400, "Inference-Header-Content-Length", body=GOOD, headers={"Inference-Header-Content-Length": "ten"}),
    Bad(400, "Content-Encoding", body=GOOD, headers={"Content-Encoding": "gzip"}),
    Bad(404, "no-such-model", "/v2/models/no-such-model", method="GET"),
    Bad(404, "v9", "/v2/models/digits/versions/v9/infer", body=GOOD),
    Bad(404, "/v3", "/v3", method="GET"),
    Bad(405, "POST", method="GET"),
    Bad(405, "GET, HEAD", "/v2/health/live"),
    Bad(413, "bytes", body=gzip.compress(bytes(BODY_MAX_BYTES + 1)), headers={"Content-Encoding": "gzip"}),
    Bad(415, "br", body=GOOD, headers={"Content-Encoding": "br"}),
)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.status} {bad.said}")
def test_what_is_wrong_is_refused_with_its_name(system: System, port: int, bad: Bad) -> None:
    answer = system.ask(bad.method, bad.path, bad.body, bad.headers, port=port)
    assert answer.status == bad.status
    assert bad.said in answer.error()
    assert answer.headers.get("allow") == (bad.said if bad.status == 405 else None)


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(wire: Wire) -> None:
    wire.send(head(Content_Length=BODY_MAX_BYTES + 1) + bytes(1 << 17))
    answer = wire.answer()
    assert answer.status == 413
    assert str(BODY_MAX_BYTES) in answer.error()


def test_who_sends_a_body_to_its_end_before_reading_still_learns_that_it_is_too_large(wire: Wire) -> None:
    """As most clients do. A connection closed too early would be reset, and the answer lost."""
    wire.send(head(Content_Length=BODY_MAX_BYTES + 1))
    for _ in range(BODY_MAX_BYTES >> 16):
        wire.send(bytes(1 << 16))
    wire.send(b"\0")
    assert wire.answer().status == 413


def test_a_body_that_grows_too_large_is_refused(wire: Wire) -> None:
    wire.send(head(Transfer_Encoding="chunked"))
    for _ in range((BODY_MAX_BYTES >> 16) + 1):
        wire.send(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    wire.send(b"0\r\n\r\n")
    assert wire.answer().status == 413


def test_headers_that_never_end_are_refused(system: System, port: int, wire: Wire) -> None:
    wire.send(head(X_Long="x" * (80 << 10)))
    answer = wire.answer()
    if port == system.port:  # HAProxy's own answer to what it can't read: its text can't be changed
        assert answer.status == 400
    else:
        assert (answer.status, "headers" in answer.error()) == (431, True)
    assert wire.ended()


def test_what_is_not_http_is_refused(system: System, port: int, wire: Wire) -> None:
    wire.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    answer = wire.answer()
    assert answer.status == 400
    assert port == system.port or "HTTP/1.1" in answer.error()
    assert wire.ended()


# Deadlines


@pytest.mark.parametrize("way", ["parameter", "header"])
def test_a_request_that_runs_out_of_time_is_told_so(system: System, port: int, way: str) -> None:
    document = infer_document("orientation", pages())
    headers = {"x-request-timeout-us": "1000"} if way == "header" else {}
    if way == "parameter":
        document["parameters"] = {"timeout": 1000}
    answer = system.ask("POST", "/v2/models/orientation/infer", document, headers, port=port)
    assert answer.status == 504
    assert "deadline" in answer.error()


def test_a_deadline_holds_while_others_fill_the_queue(system: System, port: int) -> None:
    """The answer comes with the deadline, not with the end of the queue."""
    body = json.dumps(infer_document("orientation", pages())).encode()
    request = head(path="/v2/models/orientation/infer", Content_Length=len(body)) + body
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(contextlib.closing(Wire(port))) for _ in range(6)]
        for other in others:
            other.send(request)
        began = time.monotonic()
        answer = system.ask(
            "POST",
            "/v2/models/orientation/infer",
            infer_document("orientation", pages()[:1]),
            {"x-request-timeout-us": "1000"},
            port=port,
        )
        assert answer.status == 504
        assert time.monotonic() - began < 10
        assert [other.answer().status for other in others] == [200] * len(others)


# What every client may do


def test_head_gives_the_headers_alone(wire: Wire) -> None:
    wire.send(head("HEAD", "/v2") + head("HEAD", INFER) + head("GET", "/v2"))
    there, not_there, whole = wire.answer(head=True), wire.answer(head=True), wire.answer()
    assert (there.status, not_there.status) == (200, 405)
    assert there.headers["content-length"] == str(len(whole.body))
    assert whole.json()["name"] == "holdfast"


def test_a_connection_is_kept_whatever_was_asked_on_it(wire: Wire) -> None:
    for request, status in ((post(), 200), (post(b"{"), 400), (head("GET", "/v2/nothing"), 404), (post(), 200)):
        wire.send(request)
        assert wire.answer().status == status


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    documents = [infer_document("digits", IMAGE) | {"id": str(number)} for number in range(40)]
    wire.send(b"".join(post(json.dumps(document).encode()) for document in documents))
    assert [wire.answer().json()["id"] for _ in documents] == [str(number) for number in range(40)]


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_body_may_come_in_chunks(wire: Wire, size: int) -> None:
    wire.send(head(Transfer_Encoding="chunked") + chunked(GOOD, size) + post())
    assert is_good(wire.answer())
    assert is_good(wire.answer())


def test_a_client_that_asks_first_is_told_to_go_on(wire: Wire) -> None:
    wire.send(head(Content_Length=len(GOOD), Expect="100-continue"))
    assert wire.status() == 100
    wire.send(GOOD)
    assert is_good(wire.answer())


def test_a_request_may_come_byte_by_byte(wire: Wire) -> None:
    for byte in post():
        wire.send(bytes([byte]))
    assert is_good(wire.answer())


def test_a_request_that_is_never_finished_troubles_nobody(system: System, port: int) -> None:
    whole = post()
    for cut in (1, 20, len(whole) - len(GOOD), len(whole) - 1):
        with contextlib.closing(Wire(port)) as wire:
            wire.send(whole[:cut])
    with contextlib.closing(Wire(port)) as wire:  # sent to its end, but nobody waits for the answer
        wire.send(whole)
    assert is_good(system.ask("POST", INFER, GOOD, port=port))


def test_a_client_that_wants_to_leave_is_let_go(wire: Wire) -> None:
    wire.send(head(Content_Length=len(GOOD), Connection="close") + GOOD)
    assert is_good(wire.answer())
    assert wire.ended()


def test_http_1_0_is_answered(wire: Wire) -> None:
    wire.send(head("GET", "/v2/health/live").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert wire.answer().status == 200
    assert wire.ended()
