"""A seeded stream of requests that no server of the Open Inference Protocol may accept.

Each case is made from a valid request by one mistake, and says which 4xx status is right. Not here: sending them.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, Final, NamedTuple

Doc = dict[str, Any]
Mistake = Callable[["_Maker"], "HttpCase | None"]

_INTEGERS: Final = {
    f"{sign}INT{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}
_ITEM_BYTES: Final = {"BOOL": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8} | {
    name: int(name.lstrip("UINT")) // 8 for name in _INTEGERS
}
_BINARY_ONLY: Final = ("FP16", "BF16")
_LENGTH: Final = "Inference-Header-Content-Length"


class InputSpec(NamedTuple):
    """An input that the model takes; -1 in ``shape`` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class HttpCase(NamedTuple):
    """One request that is wrong in the way that ``mistake`` says, and the status it deserves."""

    mistake: str
    status: int
    path: str
    method: str
    headers: dict[str, str]
    body: bytes


def malformed(
    model: str, inputs: Sequence[InputSpec], *, seed: int, count: int, batched: bool = True
) -> Iterator[HttpCase]:
    """``count`` malformed requests for this model, the same for the same seed."""
    maker = _Maker(model, inputs, random.Random(seed), batched)
    made = 0
    while made < count:
        case = maker.rng.choice(MISTAKES)(maker)
        if case is not None:  # not every mistake can be made with every model
            made += 1
            yield case


class _Maker:
    """Makes valid requests to be spoilt, and cases out of spoilt ones."""

    def __init__(self, model: str, inputs: Sequence[InputSpec], rng: random.Random, batched: bool) -> None:
        self.model = model
        self.inputs = inputs
        self.rng = rng
        self.batched = batched
        self.path = f"/v2/models/{model}/infer"

    def shape(self, spec: InputSpec, rows: int) -> list[int]:
        free = [rows if axis == 0 else self.rng.randint(1, 4) for axis in range(len(spec.shape))]
        return [size if want < 0 else want for size, want in zip(free, spec.shape, strict=True)]

    def element(self, datatype: str) -> Any:
        if datatype == "BYTES":
            return self.rng.choice(["", "kelp", "Tang ü", "\u0000"])
        if datatype == "BOOL":
            return self.rng.random() < 0.5
        if datatype in _INTEGERS:
            return self.rng.randint(*_INTEGERS[datatype])
        return round(self.rng.uniform(-10, 10), 4)

    def valid(self, *, binary: bool = False) -> tuple[Doc, list[bytes]]:
        """A valid request and the binary tensors that follow it; FP16 and BF16 are binary in any case."""
        rows = self.rng.randint(1, 3)
        entries: list[Doc] = []
        tail: list[bytes] = []
        for spec in self.inputs:
            entry: Doc = {"name": spec.name, "shape": self.shape(spec, rows), "datatype": spec.datatype}
            count = math.prod(entry["shape"])
            if binary or spec.datatype in _BINARY_ONLY:
                size = 4 if spec.datatype == "BYTES" else _ITEM_BYTES[spec.datatype]
                tail.append(bytes(count * size))
                entry["parameters"] = {"binary_data_size": count * size}
            else:
                entry["data"] = [self.element(spec.datatype) for _ in range(count)]
            entries.append(entry)
        return {"inputs": entries}, tail

    def case(self, mistake: str, doc: Any, tail: Sequence[bytes] = ()) -> HttpCase:
        text = json.dumps(doc).encode()
        headers = {_LENGTH: str(len(text))} if tail else {}
        return self.raw(mistake, text + b"".join(tail), headers)

    def raw(self, mistake: str, body: bytes, headers: dict[str, str] | None = None, status: int = 400) -> HttpCase:
        return HttpCase(
            mistake, status, self.path, "POST", {"Content-Type": "application/json", **(headers or {})}, body
        )

    def junk(self, *allowed: type) -> Any:
        """A JSON value that is none of the allowed types."""
        values = [None, True, 7, 2.5, "junk", ["junk"], {"junk": 1}]
        return self.rng.choice([value for value in values if type(value) not in allowed])


def _broken_text(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid()
    text = json.dumps(doc).encode()
    cut = text[: maker.rng.randrange(len(text))]
    other = json.dumps(maker.junk(dict)).encode()
    noise = b"\xff" + maker.rng.randbytes(40)
    deep = maker.rng.choice([b"[" * 100_000, b'{"inputs":' * 20_000])
    broken = maker.rng.choice([b"", b" \n", cut, cut + b"\xff", text + b"}", other, noise, deep])
    return maker.raw("broken text", broken, {_LENGTH: str(len(broken))} if tail and broken else {})


def _wrong_envelope(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid()
    none = type(None)
    wrong: dict[str, list[Any]] = {
        "inputs": [maker.junk(list), [], [maker.junk(dict)]],
        "id": [maker.junk(str, none)],
        "parameters": [
            maker.junk(dict, none),
            {"binary_data_output": maker.junk(bool, none)},
            {"timeout": maker.rng.choice([0, -1, 1.5, "100", True, 2**70])},
        ],
        "outputs": [maker.junk(list, none), [maker.junk(dict)], [{"name": "no such output"}], [{}]],
    }
    key = maker.rng.choice(list(wrong))
    return maker.case(f"{key} is wrong", doc | {key: maker.rng.choice(wrong[key])}, tail)


def _missing_key(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid()
    key = maker.rng.choice(["inputs", "name", "shape", "datatype", "all but the name"])
    if key in doc:
        del doc[key]
    elif key == "all but the name":
        doc["inputs"] = [{"name": entry["name"]} for entry in doc["inputs"]]
    else:
        del maker.rng.choice(doc["inputs"])[key]
    return maker.case(f"{key} is missing", doc, tail)


def _wrong_tensors(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid()
    entries = doc["inputs"]
    choice = maker.rng.randrange(4)
    if choice == 0:
        entries.append(deepcopy(maker.rng.choice(entries)))
    elif choice == 1:
        entries.pop(maker.rng.randrange(len(entries)))
    elif choice == 2:
        entries.append({"name": "no such input", "shape": [1], "datatype": "FP32", "data": [1.0]})
    else:
        maker.rng.choice(entries)["name"] = maker.junk(dict)
    return maker.case("wrong set of tensors", doc, tail)


def _wrong_datatype(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid()
    entry = maker.rng.choice(doc["inputs"])
    others = [name for name in (*_ITEM_BYTES, "BYTES", "fp32", "", "FP128", None, 32) if name != entry["datatype"]]
    entry["datatype"] = maker.rng.choice(others)
    return maker.case("wrong datatype", doc, tail)


def _wrong_shape(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid(binary=maker.rng.random() < 0.3)
    entry = maker.rng.choice(doc["inputs"])
    shape: list[Any] = entry["shape"]
    wrong: list[Any] = [[*shape, 1], [*shape, 2**70], maker.junk(list), [*shape, "1"], [*shape, None]]
    if shape:
        axis = maker.rng.randrange(len(shape))
        sizes = [-1, -shape[axis], shape[axis] + 1, float(shape[axis]), 2**31, 2**63, 2**64, 10**400, True, "1", []]
        wrong += [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
        wrong += [shape[1:], *([[0, *shape[1:]]] if maker.batched else [])]
    entry["shape"] = maker.rng.choice(wrong)
    return maker.case("wrong shape", doc, tail)


def _wrong_count(maker: _Maker) -> HttpCase | None:
    doc, tail = maker.valid()
    entry = _with_data(maker, doc)
    if entry is None:
        return None
    data: list[Any] = entry["data"]
    entry["data"] = maker.rng.choice([data[:-1], data + data[:1], data * 2, [], None, {}, "junk", [data, 1]])
    return maker.case("wrong number of elements", doc, tail)


def _wrong_element(maker: _Maker) -> HttpCase | None:
    doc, tail = maker.valid()
    entry = _with_data(maker, doc)
    if entry is None:
        return None
    datatype = entry["datatype"]
    wrong: list[Any] = [None, {}, {"a": 1}]
    wrong += [1, 1.5, True] if datatype == "BYTES" else ["1", "", "NaN"]
    if datatype in _INTEGERS:
        low, high = _INTEGERS[datatype]
        wrong += [low - 1, high + 1, 2**64, -(2**63) - 1, 10**30, 1.0, 0.5, 1e3, float("nan"), True]
    elif datatype == "BOOL":
        wrong += [0, 1, 1.0]
    elif datatype != "BYTES":
        wrong += [True, 10**400] + ([1e39, -3.5e38, 10**39] if datatype == "FP32" else [])
    entry["data"][maker.rng.randrange(len(entry["data"]))] = maker.rng.choice(wrong)
    return maker.case("wrong element", doc, tail)


def _wrong_binary(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid(binary=True)
    entry = maker.rng.choice(doc["inputs"])
    size = entry["parameters"]["binary_data_size"]
    choice = maker.rng.randrange(7)
    if choice == 0:
        entry["parameters"]["binary_data_size"] = maker.rng.choice(
            [size + 1, size - 1, -1, 2**70, str(size), 1.5, True]
        )
    elif choice == 1:
        tail[-1] = tail[-1][:-1]
    elif choice == 2:
        tail.append(maker.rng.randbytes(maker.rng.randint(1, 9)))
    elif choice == 3:
        entry["data"] = [0]
    elif choice == 4:
        entry["parameters"] = {"shared_memory_region": "region", "shared_memory_byte_size": size}
    elif choice == 5:
        del entry["parameters"]
    else:
        return maker.raw("binary without a length", json.dumps(doc).encode())
    return maker.case("wrong binary data", doc, tail)


def _wrong_length(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid(binary=True)
    body = json.dumps(doc).encode() + b"".join(tail)
    length = len(body) - sum(map(len, tail))
    wrong = [str(length + 1), str(length - 1), str(len(body) + 1), "0", "-1", "", "junk", "1e3", "9" * 30, "0x10"]
    return maker.raw("wrong header length", body, {_LENGTH: maker.rng.choice(wrong)})


def _wrong_encoding(maker: _Maker) -> HttpCase:
    text = json.dumps(maker.valid()[0]).encode()
    packed = gzip.compress(text, mtime=0)
    cut = packed[: maker.rng.randrange(len(packed))]
    corrupt = [("gzip", body) for body in (text, b"", cut, packed + b"tail", packed[:-8] + bytes(8))]
    corrupt += [("deflate", text), ("deflate", zlib.compress(text)[:-1])]
    unknown = [("br", text), ("gzip, deflate", packed), ("junk", text)]
    encoding, body = maker.rng.choice(corrupt + unknown)
    return maker.raw("wrong encoding", body, {"Content-Encoding": encoding}, 415 if encoding in dict(unknown) else 400)


def _wrong_address(maker: _Maker) -> HttpCase:
    doc, tail = maker.valid()
    case = maker.case("wrong address", doc, tail)
    name = maker.rng.choice(["no-such-model", "..%2F..%2Fetc", "A" * 300])
    model = f"/v2/models/{maker.model}"
    unknown = [f"/v2/models/{name}/infer", f"{model}/versions/no-such-version/infer", f"{model}/infer/more"]
    unknown += [f"{model}/guess", "/v3/models"]
    if maker.rng.random() < 0.7:
        return case._replace(path=maker.rng.choice(unknown), status=404)
    path, method = maker.rng.choice([(maker.path, "GET"), (maker.path, "DELETE"), ("/v2/health/live", "POST")])
    return case._replace(path=path, method=method, status=405)


def _with_data(maker: _Maker, doc: Doc) -> Doc | None:
    """An entry of ``inputs`` whose elements stand in JSON and aren't none."""
    entries = [entry for entry in doc["inputs"] if entry.get("data")]
    return maker.rng.choice(entries) if entries else None


MISTAKES: Final[tuple[Mistake, ...]] = (
    _broken_text,
    _wrong_envelope,
    _missing_key,
    _wrong_tensors,
    _wrong_datatype,
    _wrong_shape,
    _wrong_count,
    _wrong_element,
    _wrong_binary,
    _wrong_length,
    _wrong_encoding,
    _wrong_address,
)
