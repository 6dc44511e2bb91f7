"""The generator of malformed requests makes nothing that the codec accepts."""

from __future__ import annotations

from collections import Counter

import pytest

from loadtests.malformed import MISTAKES, HttpCase, InputSpec, malformed
from models.signature import Signature, TensorSpec
from serving.errors import CallerError
from serving.protocol.compression import decompress
from serving.protocol.decode import RequestDecoder, parse_json_length
from serving.protocol.status import status_of

MODELS = {
    "one input": [InputSpec("x", "FP32", (-1, 4))],
    "many datatypes": [
        InputSpec("a", "INT64", (-1, 2)),
        InputSpec("b", "BYTES", (-1,)),
        InputSpec("c", "BOOL", (-1, 1, 2)),
        InputSpec("h", "FP16", (-1, 3)),
    ],
    "free shapes": [
        InputSpec("u", "UINT64", (-1, -1)),
        InputSpec("v", "INT8", (-1, 2, 2)),
        InputSpec("w", "FP64", (-1, 1)),
    ],
    "images": [InputSpec("image", "UINT8", (-1, 3, 4, 4))],
    "binary only": [InputSpec("h", "BF16", (-1, 2))],
}


def received(case: HttpCase, decoder: RequestDecoder) -> None:
    """What the gateway does with a request's headers and body before anything else."""
    body = decompress(case.body, case.headers.get("Content-Encoding"), max_bytes=1_000_000)
    length = case.headers.get("Inference-Header-Content-Length")
    decoder.decode(body, json_length=None if length is None else parse_json_length(length))


@pytest.mark.parametrize("model", MODELS)
def test_every_case_is_refused_with_the_status_it_deserves(model: str) -> None:
    inputs = MODELS[model]
    specs = tuple(TensorSpec(*spec) for spec in inputs)
    decoder = RequestDecoder("m", Signature(specs, (TensorSpec("y", "FP32", (-1, 2)),), batched=True))
    seen: Counter[str] = Counter()
    for case in malformed("m", inputs, seed=1, count=1000):
        seen[case.mistake] += 1
        if case.mistake == "wrong address":
            assert case.status in (404, 405)
            continue
        with pytest.raises(CallerError) as caught:
            received(case, decoder)
        assert status_of(caught.value) == case.status, case
    assert len(seen) >= len(MISTAKES) - 2


def test_a_seed_makes_the_same_cases_again() -> None:
    inputs = MODELS["many datatypes"]
    once, again = (list(malformed("m", inputs, seed=7, count=200)) for _ in range(2))
    assert once == again
    assert once != list(malformed("m", inputs, seed=8, count=200))
