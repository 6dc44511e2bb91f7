"""What a replica can be told to do wrong: what is refused, and what a fault means for one run."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from models.inference import Array, Tensor
from models.signature import Signature, TensorSpec
from serving.channel.faults import HANG_S, SLOW_MAX_S, Command, Fate, Fault, draw, misfit, spoilt
from serving.request.check import form_fault
from tests.fakes import DOUBLE

MIXED = Signature(
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("label", "INT64", (-1, 1)), TensorSpec("y", "BF16", (-1, 2)), TensorSpec("z", "FP64", (-1,))),
    batched=True,
)
LABELS = Signature(MIXED.inputs, MIXED.outputs[:1], batched=True)
MIXED_OUTPUTS: list[Array] = [np.ones((3, 1), np.int64), np.ones((3, 2), np.uint16), np.ones(3)]


def read(**fields: Any) -> Fault:
    return msgspec.json.decode(msgspec.json.encode(fields), type=Fault)


@pytest.mark.parametrize(
    "fields",
    [
        {"fail_rate": 0.3, "slow_ms": 200, "nan_rate": 0.5, "wrong_shape_rate": 0.1, "seed": 1, "for_s": 30},
        {"slow_ms_per_row": 5.0, "slow_factor": 10.0},
        {"hang": "loop"},
        {"leak_kib_per_run": 64},
        {"channel": "stall", "channel_rate": 0.5, "exit": True},
    ],
)
def test_a_fault_is_written_as_it_was_read(fields: dict[str, Any]) -> None:
    assert msgspec.to_builtins(read(**fields)) == fields


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fail_rate", 1.1),
        ("fail_rate", -0.1),
        ("fail_rate", "0.5"),
        ("fail_rate", True),
        ("nan_rate", 2),
        ("wrong_shape_rate", 2),
        ("slow_ms", 60_001),
        ("slow_ms", -1),
        ("slow_ms_per_row", 10_001),
        ("slow_factor", 0.5),
        ("slow_factor", 1001),
        ("leak_kib_per_run", -1),
        ("leak_kib_per_run", 0.5),
        ("hang", "everything"),
        ("channel", "melt"),
        ("channel_rate", 0),
        ("exit", 1),
        ("seed", -1),
        ("seed", 1.5),
        ("for_s", 0),
        ("for_s", 3601),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
        read(**{"fail_rate": 0.5, "channel": "cut", field: value})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "names nothing"),
        ({"seed": 1, "for_s": 5, "slow_factor": 1, "exit": False}, "names nothing"),
        ({"fail_rate": 1, "channel_rate": 0.5}, "channel_rate: without `channel`"),
        ({"fail_rate": 1, "rate": 1}, "unknown field `rate`"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        read(**fields)


def test_a_hang_always_ends_and_other_faults_only_if_told() -> None:
    assert Fault(hang="model").lasts_s == HANG_S
    assert Fault(hang="loop", for_s=2).lasts_s == 2
    assert Fault(fail_rate=1).lasts_s is None
    assert Fault(fail_rate=1, for_s=2).lasts_s == 2


def test_slowness_adds_up_to_a_bound() -> None:
    assert Fault(slow_ms=200).added_s(rows=9, ran_s=5) == pytest.approx(0.2)
    assert Fault(slow_ms_per_row=5).added_s(rows=4, ran_s=5) == pytest.approx(0.02)
    assert Fault(slow_factor=10).added_s(rows=4, ran_s=0.01) == pytest.approx(0.09)
    assert Fault(slow_ms=100, slow_ms_per_row=5, slow_factor=2).added_s(rows=2, ran_s=0.5) == pytest.approx(0.61)
    assert Fault(slow_factor=1000).added_s(rows=1, ran_s=10) == SLOW_MAX_S
    assert not Fault(fail_rate=1).slow


def test_rates_are_met_and_one_does_not_change_what_another_does() -> None:
    chance = random.Random(1)
    alone = [draw(Fault(fail_rate=0.3), chance) for _ in range(2000)]
    assert sum(fate.fails for fate in alone) == pytest.approx(600, abs=60)
    assert not any(fate.nan or fate.wrong_shape for fate in alone)
    chance = random.Random(1)
    together = [draw(Fault(fail_rate=0.3, nan_rate=0.5, wrong_shape_rate=1), chance) for _ in range(2000)]
    assert [fate.fails for fate in together] == [fate.fails for fate in alone]
    assert sum(fate.nan for fate in together) == pytest.approx(1000, abs=100)
    assert all(fate.wrong_shape for fate in together)


def test_nan_is_in_every_float_and_nowhere_else() -> None:
    label, y, z = spoilt(MIXED_OUTPUTS, Fate(fails=False, nan=True, wrong_shape=False), MIXED)
    assert (label == 1).all()
    assert (y == 0x7FC0).all()
    assert np.isnan(z).all()
    assert [array.dtype for array in (label, y, z)] == [array.dtype for array in MIXED_OUTPUTS]
    assert (MIXED_OUTPUTS[2] == 1).all(), "the model's own arrays stay as they are"


def test_a_wrong_shape_is_one_that_the_gateways_check_finds() -> None:
    def fault_of(fate: Fate) -> str | None:
        arrays = spoilt([np.ones((3, 2), np.float32)], fate, DOUBLE)
        return form_fault(DOUBLE, (Tensor("y", "FP32", arrays[0]),), [3])

    assert fault_of(Fate(fails=False, nan=False, wrong_shape=False)) is None
    assert fault_of(Fate(fails=False, nan=False, wrong_shape=True)) is not None


def test_a_model_without_floats_can_not_answer_nan() -> None:
    assert misfit(Fault(nan_rate=0.5), LABELS) == "nan_rate: the model has no output of floats"
    assert misfit(Fault(nan_rate=0.5), MIXED) is None
    assert misfit(Fault(fail_rate=0.5), LABELS) is None


def test_a_command_means_all_one_or_nobody() -> None:
    assert Command(replica="all").means("r1")
    assert Command(replica="r1").means("r1")
    assert not Command(replica="r2").means("r1")
    assert not Command().means("r1")
