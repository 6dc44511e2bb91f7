"""A static answer has the model's form, whatever was asked, or is refused before anyone asks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fallbacks.chain import Question
from fallbacks.static_answer import InvalidStatic, StaticAnswer
from models.inference import DATATYPES
from models.signature import Signature, TensorSpec
from tests.fakes import FakeClock, request_of

INPUTS = (TensorSpec("x", "FP32", (-1, 2)),)


def giving(datatype: str, shape: tuple[int, ...] = (-1, 2)) -> Signature:
    return Signature(INPUTS, (TensorSpec("y", datatype, shape),), batched=True)


@pytest.mark.parametrize(
    ("datatype", "elements"),
    [
        ("BOOL", [True, False]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT8", [0, 255]),
        ("FP32", [0.5, 1]),
        ("FP32", [3.4e38, -1e-50]),
        ("FP16", [65504, -65504]),
        ("FP16", [0.5, 1.0]),
        ("BF16", [0.5, 1.0]),
        ("BYTES", ["a", "b\u00e9"]),
    ],
)
async def test_as_many_rows_as_were_asked_for_all_alike(datatype: str, elements: list[Any], clock: FakeClock) -> None:
    signature = giving(datatype)
    answer = await StaticAnswer("m", signature, {"y": elements}).answer(Question(request_of(1, 2, 3), 0.0))
    assert signature.answer_fault(answer.outputs, 3) is None
    array = answer.outputs[0].array
    assert array.dtype == DATATYPES[datatype].dtype
    assert np.array_equal(array, np.repeat(array[:1], 3, axis=0))
    assert (answer.model, answer.version, answer.kind) == ("m", "static", "static")


async def test_a_model_without_a_batch_gets_its_answer_as_it_is(clock: FakeClock) -> None:
    signature = Signature(INPUTS, (TensorSpec("y", "INT64", (2, 2)),), batched=False)
    answer = await StaticAnswer("m", signature, {"y": [1, 2, 3, 4]}).answer(Question(request_of(1), 0.0))
    assert answer.outputs[0].array.tolist() == [[1, 2], [3, 4]]


async def test_bf16_is_the_upper_half_of_a_float(clock: FakeClock) -> None:
    answer = await StaticAnswer("m", giving("BF16"), {"y": [1.0, -2.0]}).answer(Question(request_of(1), 0.0))
    assert answer.outputs[0].array.tolist() == [[0x3F80, 0xC000]]


@pytest.mark.parametrize(
    ("signature", "outputs", "said"),
    [
        (giving("FP32"), {}, "outputs.y: the model has this output"),
        (giving("FP32"), {"y": [1, 2], "z": [1]}, "outputs.z: the model has no such output"),
        (giving("FP32"), {"y": [1]}, "outputs.y: 1 elements where 2 are needed"),
        (giving("FP32", (-1, -1)), {"y": [1, 2]}, "outputs.y: its shape"),
        (giving("INT8"), {"y": [1, 200]}, r"outputs.y\[1\]: 200 is no INT8"),
        (giving("INT8"), {"y": [1, 2.5]}, r"outputs.y\[1\]: 2.5 is no INT8"),
        (giving("FP32"), {"y": [1, True]}, r"outputs.y\[1\]: True is no FP32"),
        (giving("FP32"), {"y": [1, math.nan]}, r"outputs.y\[1\]: nan is no finite FP32"),
        (giving("FP64"), {"y": [-math.inf, 1]}, r"outputs.y\[0\]: -inf is no finite FP64"),
        (giving("FP64"), {"y": [10**400, 1]}, r"outputs.y\[0\]: 1000+ is no finite FP64"),
        (giving("FP32"), {"y": [1, 1e39]}, r"outputs.y\[1\]: 1e\+39 is no finite FP32"),
        (giving("FP16"), {"y": [1, 65520]}, r"outputs.y\[1\]: 65520 is no finite FP16"),
        (giving("BF16"), {"y": [1, -1e39]}, r"outputs.y\[1\]: -1e\+39 is no finite BF16"),
        (giving("INT8"), {"y": [1, -129]}, r"outputs.y\[1\]: -129 is no INT8"),
        (giving("UINT64"), {"y": [2**64, 1]}, r"outputs.y\[0\]: 18446744073709551616 is no UINT64"),
        (giving("BOOL"), {"y": [1, True]}, r"outputs.y\[0\]: 1 is no BOOL"),
        (giving("BYTES"), {"y": [1, "a"]}, r"outputs.y\[0\]: 1 is no BYTES"),
    ],
)
def test_what_the_model_could_not_give_is_refused_by_name(
    signature: Signature, outputs: dict[str, list[Any]], said: str
) -> None:
    with pytest.raises(InvalidStatic, match=f"^{said}"):
        StaticAnswer("m", signature, outputs)
