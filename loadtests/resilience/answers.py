"""The inputs, what every version answered to them in calm, and the judging of later answers by that."""

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from loadtests.resilience.client import Reply
from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind

LENGTH_HEADER = "inference-header-content-length"
BINARY: Mapping[str, str] = {"FP32": "<f", "INT64": "<q"}
"""What the models of these tests give, as `struct` knows it."""
VERSION_HEADER = "holdfast-version"
DEGRADED_HEADER = "holdfast-degraded"
REASON_HEADER = "holdfast-degraded-reason"
FALLBACKS = ("version", "model", "cache", "static")

STATIC_OUTPUTS: Mapping[str, list[Any]] = {"probabilities": [0.1] * 10, "label": [-1]}
_TOLERANCE = 1e-3
"""A model's sums come out a little different in another batch; another digit's are far off."""

Outputs = Mapping[str, Sequence[float]]


class Judged(NamedTuple):
    kind: Kind
    by: str = ""
    note: str = ""


def digit_documents() -> list[bytes]:
    """A request with one handwritten digit each, all 1797 of scikit-learn's."""
    from sklearn.datasets import load_digits

    pixels = load_digits().data / 16.0
    return [
        json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": row.tolist()}]}).encode()
        for row in pixels
    ]


def padded(document: bytes, size: int) -> bytes:
    """The same document with blanks before its last bracket, so that it is `size` bytes long."""
    return document[:-1] + b" " * (size - len(document)) + document[-1:]


def document_of(reply: Reply) -> Any:
    """The JSON of an answer, with the data of its binary tensors in it. Raises `ValueError`."""
    length = reply.headers.get(LENGTH_HEADER)
    if length is None:
        return json.loads(reply.body)
    at = int(length)
    document = json.loads(reply.body[:at])
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            kind = BINARY.get(output["datatype"])
            if kind is None or at + size > len(reply.body):
                raise ValueError(f"no {output['datatype']} of {size} bytes")
            output["data"] = [value for (value,) in struct.iter_unpack(kind, reply.body[at : at + size])]
            at += size
    return document


def outputs_of(document: Any) -> Outputs | None:
    """The outputs of an answer by name; None if it isn't one."""
    try:
        found = {output["name"]: output["data"] for output in document["outputs"]}
        return found if all(math.isfinite(value) for values in found.values() for value in values) else None
    except (KeyError, TypeError, AttributeError):
        return None


class Judge:
    """Knows what is right, and who may answer without saying that it is a fallback."""

    def __init__(self, known: Mapping[str, Sequence[Outputs]], stable: Iterable[str]) -> None:
        self._known = known
        self.stable = frozenset(stable)
        self.examples: dict[str, str] = {}
        """The first one of each way in which answers weren't good."""

    def judge(self, image: int, reply: Reply) -> Judged:
        judged = self._judge(image, reply)
        if judged.kind not in (Kind.OK, Kind.DEGRADED):
            key = f"{judged.kind} {judged.note}"
            if key not in self.examples and len(self.examples) < 20:
                self.examples[key] = f"{judged.by} {reply.body[:300].decode(errors='replace')}".strip()
        return judged

    def _judge(self, image: int, reply: Reply) -> Judged:
        by = reply.headers.get(VERSION_HEADER, "")
        degraded = reply.headers.get(DEGRADED_HEADER)
        if reply.status != 200:
            return Judged(Kind.FAILED, by, str(reply.status))
        if wrong := self._wrong(image, by, reply):
            return Judged(Kind.WRONG, by, wrong)
        if degraded is None:
            return Judged(Kind.OK, by) if by in self.stable else Judged(Kind.UNMARKED, by, f"by {by}")
        if degraded not in FALLBACKS or not reply.headers.get(REASON_HEADER):
            return Judged(Kind.WRONG, by, f"marked {degraded!r:.40}, reason {reply.headers.get(REASON_HEADER)!r:.40}")
        return Judged(Kind.DEGRADED, by, degraded)

    def _wrong(self, image: int, by: str, reply: Reply) -> str | None:
        try:
            document = document_of(reply)
        except ValueError:
            return "not JSON"
        outputs = outputs_of(document)
        if outputs is None:
            return "broken or not finite"
        if by.endswith("@static"):
            right: Outputs | None = STATIC_OUTPUTS
        elif by in self._known:
            right = self._known[by][image] if image < len(self._known[by]) else None
        else:
            return f"by {by or 'nobody'}"
        if right is not None and not _same(outputs, right):
            return "another answer than in calm"
        marked = document.get("parameters", {}).get("degraded")
        if marked != reply.headers.get(DEGRADED_HEADER):
            return f"header and parameters differ: {reply.headers.get(DEGRADED_HEADER)} and {marked}"
        return None


def _same(left: Outputs, right: Outputs) -> bool:
    return left.keys() == right.keys() and all(
        len(values) == len(right[name])
        and all(abs(a - b) <= _TOLERANCE for a, b in zip(values, right[name], strict=True))
        for name, values in left.items()
    )


def known_outputs(version: str, reply: Reply) -> Outputs:
    """What a version answers in calm; raises `RunError` if that isn't good."""
    try:
        outputs = outputs_of(json.loads(reply.body))
    except ValueError:
        outputs = None
    if reply.status != 200 or outputs is None or reply.headers.get(VERSION_HEADER) != version:
        raise RunError(f"{version} gives no good answer in calm: {reply.status} {reply.body[:200]!r}")
    return outputs
