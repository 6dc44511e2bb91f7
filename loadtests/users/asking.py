"""What is asked: real handwritten digits as JSON and as binary tensors, made once and sent many times."""

import json
import struct
from collections.abc import Sequence
from typing import Final

from loadtests.resilience.answers import padded
from loadtests.resilience.client import encode

DIGITS: Final = "digits"
LITE: Final = "digits-lite"
KEYS: Final = 97
"""So many stickiness keys take turns: a prime, so that each key comes with each image."""
_PIXELS: Final = 64


class Requests:
    """The bytes of each request. `timeout_s`: the deadline that it carries, if any."""

    def __init__(
        self, images: Sequence[Sequence[float]], *, timeout_s: float | None = None, body_bytes: int = 0
    ) -> None:
        self._body_bytes = body_bytes
        self._headers = {} if timeout_s is None else {"x-request-timeout-us": str(int(timeout_s * 1e6))}
        self._json = {model: [self._as_json(model, row) for row in images] for model in (DIGITS, LITE)}
        self._binary = [self._as_binary(row) for row in images]
        self._documents = [padded(_document(row), body_bytes) for row in images]
        self._poison = self._as_json(DIGITS, [float("nan")] * _PIXELS)

    def json(self, image: int, model: str = DIGITS) -> bytes:
        return self._json[model][image]

    def binary(self, image: int) -> bytes:
        return self._binary[image]

    def sticky(self, image: int, index: int) -> bytes:
        headers = self._headers | {"x-sticky-key": f"user-{index % KEYS}"}
        return encode("POST", _path(DIGITS), self._documents[image], headers)

    def poison(self) -> bytes:
        """Well formed, and nothing that any digit looks like: the answer isn't a number either."""
        return self._poison

    def _as_json(self, model: str, row: Sequence[float]) -> bytes:
        return encode("POST", _path(model), padded(_document(row), self._body_bytes), self._headers)

    def _as_binary(self, row: Sequence[float]) -> bytes:
        tensor = struct.pack(f"<{_PIXELS}f", *row)
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "image",
                        "datatype": "FP32",
                        "shape": [1, _PIXELS],
                        "parameters": {"binary_data_size": len(tensor)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        head = padded(head, self._body_bytes - len(tensor))
        headers = self._headers | {"Inference-Header-Content-Length": str(len(head))}
        return encode("POST", _path(DIGITS), head + tensor, headers)


def digit_images(count: int) -> list[list[float]]:
    """The first of scikit-learn's handwritten digits, as the model takes them."""
    from sklearn.datasets import load_digits

    found: list[list[float]] = (load_digits().data[:count] / 16.0).tolist()
    return found


def _path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _document(row: Sequence[float]) -> bytes:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, _PIXELS], "data": list(row)}
    return json.dumps({"inputs": [tensor]}).encode()
