"""A batch on its way to a replica and back, free of any wire.

Not here: joining requests into a batch (``serving.request.batch``), wire forms (``serving.channel.messages``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from models.inference import Tensor, Tensors


class Work(msgspec.Struct, frozen=True):
    """The inputs of one or more requests, joined along the batch dimension.

    Request ``i`` owns the next ``rows[i]`` rows and is of no use after ``deadlines[i]``, in monotonic seconds of
    the process that holds the object. A model without a batch dimension gets one request at a time.
    """

    inputs: Tensors
    rows: tuple[int, ...]
    deadlines: tuple[float, ...]


def tensors_bytes(tensors: Tensors) -> int:
    """Of BYTES tensors those that they hold, which numpy doesn't count."""
    return sum([_tensor_bytes(tensor) for tensor in tensors])


def _tensor_bytes(tensor: Tensor) -> int:
    if tensor.datatype == "BYTES":
        return sum(map(len, tensor.array.flat)) + 4 * tensor.array.size
    return tensor.array.nbytes


class Answer(msgspec.Struct, frozen=True):
    """A replica's answer to a ``Work``: the rows of every request that isn't in ``dropped``, in order.

    ``dropped`` were too late or no longer wanted, so the model never saw them. ``compute_s`` is the model's own
    time in seconds.
    """

    outputs: Tensors
    dropped: tuple[int, ...] = ()
    compute_s: float = 0.0


class Report(NamedTuple):
    """What one gateway says of one replica.

    ``demand`` is the replica's share of the requests that wait or are in flight in that gateway; ``ejected_s`` is how
    long, in seconds, the gateway has sent it nothing because it does worse than its siblings.
    """

    demand: float = 0.0
    ejected_s: float = 0.0


class ReplicaClient(Protocol):
    """A way to one replica (or, for the Serve handle, to any replica of the version)."""

    @property
    def replica_id(self) -> str: ...

    @property
    def live(self) -> bool:
        """Whether new work can be sent."""
        ...

    @property
    def outstanding(self) -> int:
        """Batches sent and not yet answered."""
        ...

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        """Send ``work``; the future ends with the answer or with a ``RequestError``, never hangs past a lost peer.

        Cancelling the future tells the replica that nobody waits.
        """
        ...

    def forget(self, answer: asyncio.Future[Answer], item: int) -> None:
        """Nobody waits for request ``item`` of the work that ``answer`` belongs to; the others still do."""
        ...

    async def close(self) -> None:
        """Give the way up; what is in flight fails as ``ReplicaLost``."""
        ...


def without(work: Work, items: Collection[int]) -> Work:
    """``work`` without these requests and their rows."""
    keep = [index for index in range(len(work.rows)) if index not in items]
    mask = np.repeat([index not in items for index in range(len(work.rows))], work.rows)
    inputs = tuple([Tensor(tensor.name, tensor.datatype, tensor.array[mask]) for tensor in work.inputs])
    return Work(
        inputs,
        tuple([work.rows[index] for index in keep]),
        tuple([work.deadlines[index] for index in keep]),
    )
