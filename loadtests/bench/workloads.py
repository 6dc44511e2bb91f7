"""What is sent and what must come back: the payloads, their bodies in every form, and the check of an answer.

Standard library only, so that `hit` works with nothing set up.
"""

import base64
import http.client
import json
import math
import random
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.bench.errors import BenchError

IMAGE = (3, 224, 224)
IN_PROCESS = "in-process"  # stands for a system: the model in a plain loop
TOLERANCE = 1e-3  # float32 sums in another order, no more


class Form(StrEnum):
    """How a tensor is written into a body. Systems without a binary form of the protocol take what comes nearest."""

    JSON = "json"
    BINARY = "binary"  # the protocol's binary tensor extension
    BASE64 = "base64"  # the protocol's JSON with the raw tensor as one BYTES element
    RAW = "raw"  # nothing but the raw tensor


@dataclass(frozen=True)
class Payload:
    """One kind of request: `rows` inputs of `shape` for `model`. The `connections` are those it is measured with."""

    name: str
    model: str
    rows: int
    shape: tuple[int, ...]
    connections: tuple[int, ...]
    title: str
    about: str
    binary: bool = False  # a large tensor that nobody would write as text

    def form(self, binary_form: Form) -> Form:
        return binary_form if self.binary else Form.JSON


_IMAGES = (
    "An image orientation network, FP32 [N,3,224,224] to [N,4], 6.8 MB. A request is a header and the raw tensor "
    f"(588 KiB an image) where a system takes that. `{IN_PROCESS}` is the model in a plain loop with one thread and "
    "nothing around it: nobody can be faster."
)
MLP = Payload(
    name="mlp",
    model="mlp",
    rows=1,
    shape=(64,),
    connections=(1, 32, 128),
    title="Tiny JSON",
    about="A two-layer network, FP32 [1,64] to [1,10], 0.5 kB of JSON: the model costs next to nothing, so this is "
    "the cost of the server.",
)
WIDE = Payload(
    name="wide",
    model="wide",
    rows=1,
    shape=(100_000,),
    connections=(1, 8),
    title="100 000 numbers in JSON",
    about="One dense layer, FP32 [1,100000] to [1,10], 0.9 MB of JSON: reading the numbers costs far more than the "
    "model does.",
)
IMAGE_1 = Payload(
    name="image-1",
    model="orientation",
    rows=1,
    shape=IMAGE,
    connections=(1, 8),
    title="One image, binary",
    about=_IMAGES,
    binary=True,
)
IMAGE_8 = Payload(
    name="image-8",
    model="orientation",
    rows=8,
    shape=IMAGE,
    connections=(1, 4),
    title="Eight images in a request, binary",
    about="The same network; figures are for whole requests of eight images.",
    binary=True,
)
PAYLOADS = {payload.name: payload for payload in (MLP, WIDE, IMAGE_1, IMAGE_8)}


@dataclass(frozen=True)
class Body:
    """A request body on disk. `header_length` is set for the binary tensor extension."""

    file: Path
    content_type: str
    header_length: int | None = None


def payload_named(name: str) -> Payload:
    if name not in PAYLOADS:
        raise BenchError(f"unknown payload {name!r}; known: {', '.join(PAYLOADS)}")
    return PAYLOADS[name]


def write_input(payload: Payload, directory: Path) -> "array[float]":
    """Writes the raw FP32 input as `<payload>.f32`. Always the same bytes, and just the numbers that JSON shows."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    count = payload.rows * math.prod(payload.shape)
    low, high = (-2.0, 2.0) if payload.binary else (0.0, 1.0)
    raw = array("f", (round(rng.uniform(low, high), 6) for _ in range(count)))
    (directory / f"{payload.name}.f32").write_bytes(raw.tobytes())
    return raw


def write_body(payload: Payload, directory: Path, *, binary_form: Form = Form.BINARY) -> Body:
    """Writes a request of `payload`; ``binary_form`` matters only to those that are binary."""
    raw = write_input(payload, directory)
    form = payload.form(binary_form)
    shape = [payload.rows, *payload.shape]
    header_length = None
    if form is Form.JSON:
        content = _request("FP32", shape, data=[round(number, 6) for number in raw])
    elif form is Form.BASE64:
        text = base64.b64encode(raw.tobytes()).decode()
        content = _request("BYTES", [1, 1], data=[text], parameters={"content_type": "base64"})
    elif form is Form.RAW:
        content = raw.tobytes()
    else:
        head = _request("FP32", shape, parameters={"binary_data_size": len(raw) * raw.itemsize}, binary_output=True)
        head += b" " * (-len(head) % 8)  # the tensor is aligned, so that no server has to copy it for that
        content, header_length = head + raw.tobytes(), len(head)
    file = directory / f"{payload.name}.{form}.body"
    file.write_bytes(content)
    kind = "application/json" if form in (Form.JSON, Form.BASE64) else "application/octet-stream"
    return Body(file=file, content_type=kind, header_length=header_length)


def _request(datatype: str, shape: list[int], *, binary_output: bool = False, **more: object) -> bytes:
    document: dict[str, object] = {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, **more}]}
    if binary_output:
        document["outputs"] = [{"name": "fetch_name_0", "parameters": {"binary_data": True}}]
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    header_length: int | None


def post(url: str, body: Body, *, timeout_s: float = 10.0) -> Answer:
    """One request. Raises `OSError` or `http.client.HTTPException` when no answer comes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    headers = {"Content-Type": body.content_type}
    if body.header_length is not None:
        headers["Inference-Header-Content-Length"] = str(body.header_length)
    try:
        connection.request("POST", parts.path or "/", body.file.read_bytes(), headers)
        response = connection.getresponse()
        length = response.getheader("Inference-Header-Content-Length")
        return Answer(response.status, response.read(), None if length is None else int(length))
    finally:
        connection.close()


def output_values(answer: Answer) -> list[float]:
    """The numbers of the first output tensor, from JSON or from the binary tensor extension."""
    if answer.header_length is not None:
        binary = answer.body[answer.header_length :]
        return list(struct.unpack(f"<{len(binary) // 4}f", binary[: len(binary) // 4 * 4]))
    document = json.loads(answer.body)
    if isinstance(document, list):  # a server that batches whole responses
        document = document[0]
    return [float(value) for value in document["outputs"][0]["data"]]


def complaint(answer: Answer, expected: Sequence[float] | None) -> str | None:
    """Why `answer` is not right, or None. Without `expected` only the status counts."""
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    if expected is None:
        return None
    try:
        got = output_values(answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return f"unreadable answer ({error!r})"
    if len(got) != len(expected):
        return f"{len(got)} numbers instead of {len(expected)}"
    # Asks for closeness, not for distance: a NaN is close to nothing.
    close = all(abs(a - b) <= TOLERANCE for a, b in zip(got, expected, strict=True))
    return None if close else f"wrong numbers: {got[:4]} instead of {list(expected[:4])}"
