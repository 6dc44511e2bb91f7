"""Decides whether a model's answer may reach a caller. Pure.

A batch is looked at once, as a whole; only when something is wrong is the guilty request looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.inference import DATATYPES, Tensors, numbers
from models.signature import Signature


def form_fault(signature: Signature, outputs: Tensors, rows: Sequence[int]) -> str | None:
    """What is wrong with names, datatypes or shapes of a batch's outputs, or None."""
    return signature.answer_fault(outputs, sum(rows))


def unfinite(outputs: Tensors, rows: Sequence[int], *, batched: bool) -> dict[int, str]:
    """The requests of the batch whose outputs hold NaN or infinity, and in which output."""
    faults: dict[int, str] = {}
    for tensor in outputs:
        if DATATYPES[tensor.datatype].kind != "float":
            continue
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(numbers(tensor)))
        if np.count_nonzero(finite) == finite.size:  # says what `all` says, in a quarter of the time
            continue
        fault = f"output '{tensor.name}' holds numbers that aren't finite"
        if not batched:
            return {0: fault}
        good_rows = np.asarray(finite.reshape(len(finite), -1).all(axis=1))
        start = 0
        for index, count in enumerate(rows):
            if not good_rows[start : start + count].all():
                faults.setdefault(index, fault)
            start += count
    return faults
