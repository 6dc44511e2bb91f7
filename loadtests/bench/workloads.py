"""What is sent and what must come back: the request bodies, their files, and the check of an answer.

Standard library only, so that `hit` works with nothing set up.
"""

import http.client
import json
import math
import random
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.bench.errors import BenchError

MLP = "mlp"
MLP_INPUTS = 64
IMAGE = (3, 224, 224)
ORIENTATION_BATCHES = (1, 8)
ORIENTATION_CONNECTIONS = (1, 4)
IN_PROCESS = "in-process"  # stands for a system: the model in a plain loop
TOLERANCE = 1e-3  # float32 sums in another order, no more


@dataclass(frozen=True)
class Body:
    """A request body on disk. `header_length` is set for the binary tensor extension."""

    file: Path
    content_type: str
    header_length: int | None = None


def orientation(batch: int) -> str:
    """The name of the orientation workload with `batch` images in a request."""
    return f"orientation-b{batch}"


WORKLOADS = (MLP, *(orientation(batch) for batch in ORIENTATION_BATCHES))


def write_body(workload: str, directory: Path) -> Body:
    """Writes the body of `workload`, and beside it the raw FP32 input as `<workload>.f32`. Always the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    if workload == MLP:
        content, header_length = _mlp_body()
        raw = array("f", json.loads(content)["inputs"][0]["data"])
    elif workload in WORKLOADS:
        raw = _images(int(workload.rpartition("-b")[2]))
        content, header_length = _orientation_body(raw)
    else:
        raise BenchError(f"unknown workload {workload!r}; known: {', '.join(WORKLOADS)}")
    (directory / f"{workload}.f32").write_bytes(raw.tobytes())
    file = directory / f"{workload}.body"
    file.write_bytes(content)
    kind = "application/json" if header_length is None else "application/octet-stream"
    return Body(file=file, content_type=kind, header_length=header_length)


def _mlp_body() -> tuple[bytes, None]:
    rng = random.Random(0)
    data = [round(rng.random(), 4) for _ in range(MLP_INPUTS)]
    tensor = {"name": "x", "shape": [1, MLP_INPUTS], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode(), None


def _images(batch: int) -> "array[float]":
    rng = random.Random(0)
    return array("f", (rng.uniform(-2.0, 2.0) for _ in range(batch * math.prod(IMAGE))))


def _orientation_body(raw: "array[float]") -> tuple[bytes, int]:
    size = len(raw) * raw.itemsize
    shape = [len(raw) // math.prod(IMAGE), *IMAGE]
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}
    output = {"name": "fetch_name_0", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor], "outputs": [output]}, separators=(",", ":")).encode()
    return header + raw.tobytes(), len(header)


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
