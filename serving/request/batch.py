"""Joins requests into one batch and takes its answer apart again. Pure.

Not here: when a batch leaves and where to (``serving.request.lane``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from models.inference import InferenceRequest, Shape, Tensor, Tensors
from models.signature import ANY, Signature
from serving.channel.work import Answer, Work, tensors_bytes

Key = tuple[Shape, ...]
"""What requests must have in common to share a batch: every input's shape but for its rows."""

_ANY_KEY: Key = ()


def fixed_shapes(signature: Signature) -> bool:
    """Whether all requests of a batched model can share a batch, whatever they carry."""
    return signature.batched and all(ANY not in spec.shape[1:] for spec in signature.inputs)


def batch_key(request: InferenceRequest, *, fixed: bool) -> Key:
    """Requests of one model with equal keys can be joined; ``fixed`` is the signature's ``fixed_shapes``."""
    return _ANY_KEY if fixed else tuple([tensor.array.shape[1:] for tensor in request.inputs])


def request_bytes(request: InferenceRequest) -> int:
    """The bytes of a request's inputs."""
    return tensors_bytes(request.inputs)


def join(requests: Sequence[InferenceRequest], deadlines: Sequence[float]) -> Work:
    """One batch of all the requests, in order. They have one key."""
    first = requests[0]
    if len(requests) == 1:
        return Work(first.inputs, (first.rows,), (deadlines[0],))
    inputs = tuple(
        [
            Tensor(
                tensor.name,
                tensor.datatype,
                np.concatenate([request.inputs[position].array for request in requests]),
            )
            for position, tensor in enumerate(first.inputs)
        ]
    )
    return Work(inputs, tuple([request.rows for request in requests]), tuple(deadlines))


def answered_rows(rows: Sequence[int], answer: Answer) -> list[int]:
    """The rows of the requests that the model saw, in order."""
    if not answer.dropped:
        return list(rows)
    return [count for index, count in enumerate(rows) if index not in answer.dropped]


def split(outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """The outputs of every request of a batch, as views; ``rows`` are the rows of each, in order."""
    if len(rows) == 1:
        return [outputs]
    ends = list(accumulate(rows))
    return [
        tuple([Tensor(tensor.name, tensor.datatype, tensor.array[end - count : end]) for tensor in outputs])
        for count, end in zip(rows, ends, strict=True)
    ]
