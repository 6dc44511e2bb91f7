"""Values that a version wasn't made for are found, named and counted; whatever is good passes, in every datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.inference import DATATYPES, Tensor
from models.quality import FeatureQuality, InputQuality
from models.signature import Signature, TensorSpec
from serving.request.quality import FEATURES_MAX, JOINED_MAX, LOOKS_MAX, QualityCounts, QualityGate, Violation, fault

SCORE = TensorSpec("score", "FP32", (-1, 1))
WIDTH = 3
NAMES = ("age", "height", "weight")


def gate(
    *quality: InputQuality, datatype: str = "FP32", width: int = WIDTH, rejects: bool = False
) -> tuple[QualityGate, QualityCounts]:
    signature = Signature((TensorSpec("x", datatype, (-1, width)),), (SCORE,), batched=True)
    counts = QualityCounts()
    return QualityGate(quality, signature, counts=counts, rejects=rejects), counts


def tensor(rows: Any, datatype: str = "FP32") -> tuple[Tensor, ...]:
    return (Tensor("x", datatype, np.array(rows, DATATYPES[datatype].dtype)),)


def features(**limits: dict[str, Any]) -> tuple[FeatureQuality, ...]:
    return tuple(FeatureQuality(name=name, **limits.get(name, {})) for name in NAMES)


PIXELS = InputQuality(input="x", min=0, max=16)


@pytest.mark.parametrize("rows", [[[0, 8, 16]], [[0, 0, 0], [16, 16, 16]]])
def test_values_within_the_range_pass(rows: Any) -> None:
    checks, counts = gate(PIXELS)
    assert checks.check(tensor(rows)) == ""
    assert (counts.requests, dict(counts.values)) == (0, {})


def test_a_bad_value_is_named_with_its_place_and_bound() -> None:
    checks, counts = gate(PIXELS)
    assert checks.check(tensor([[1, 2, 3], [4, 17, 20]])) == (
        "input 'x': element [1, 1] is 17, over max 16, and 1 more of its values"
    )
    assert (counts.requests, dict(counts.values)) == (1, {("x", "above_max"): 2})


def test_every_kind_of_fault_is_counted() -> None:
    checks, counts = gate(PIXELS)
    text = checks.check(tensor([[np.nan, -1, np.inf]]))
    assert text == "input 'x': element [0, 0] is missing (NaN); other faults: 2"
    assert dict(counts.values) == {("x", "missing"): 1, ("x", "below_min"): 1, ("x", "above_max"): 1}


def test_a_feature_has_its_own_range_and_the_inputs_where_it_says_none() -> None:
    quality = InputQuality(input="x", min=0, features=features(age={"max": 130}, weight={"allow_missing": True}))
    checks, counts = gate(quality)
    assert checks.check(tensor([[130, 1e9, 80]])) == ""
    assert checks.check(tensor([[20, 180, np.nan]])) == ""
    assert checks.check(tensor([[20, 180, 80], [131, 180, 80]])) == (
        "input 'x', feature 'age': row 1 is 131, over max 130"
    )
    assert checks.check(tensor([[20, np.nan, 80]])) == "input 'x', feature 'height': row 0 is missing (NaN)"
    assert checks.check(tensor([[20, 180, -1]])) == "input 'x', feature 'weight': row 0 is -1, under min 0"
    assert dict(counts.values) == {
        ("x.age", "above_max"): 1,
        ("x.height", "missing"): 1,
        ("x.weight", "below_min"): 1,
    }


def test_a_value_may_be_missing_where_the_manifest_says_so() -> None:
    checks, _ = gate(InputQuality(input="x", min=0, max=1, allow_missing=True))
    assert checks.check(tensor([[np.nan, 0, 1]])) == ""
    assert checks.check(tensor([[np.nan, 0, 2]])) != ""


def test_a_bound_is_as_exact_as_the_values_are() -> None:
    """A float32 that is as near to 0.1 as can be isn't over 0.1."""
    checks, _ = gate(InputQuality(input="x", min=0.1, max=0.1))
    assert checks.check(tensor([[0.1, 0.1, 0.1]])) == ""


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT64", "UINT64"])
def test_whole_numbers_are_compared_as_whole_numbers(datatype: str) -> None:
    checks, _ = gate(InputQuality(input="x", min=0.5, max=99.5), datatype=datatype)
    assert checks.check(tensor([[1, 50, 99]], datatype)) == ""
    assert "under min 0.5" in checks.check(tensor([[0, 1, 2]], datatype))
    assert "over max 99.5" in checks.check(tensor([[100, 1, 2]], datatype))


def test_a_bound_outside_the_type_leaves_nothing_or_everything() -> None:
    assert (
        gate(InputQuality(input="x", min=-1000, max=1000), datatype="UINT8")[0].check(tensor([[0, 1, 255]], "UINT8"))
        == ""
    )
    assert "under min 300" in gate(InputQuality(input="x", min=300), datatype="UINT8")[0].check(
        tensor([[0, 1, 255]], "UINT8")
    )


def test_bf16_is_read_as_the_numbers_that_it_means() -> None:
    one = int(np.array([1.0], np.float32).view(np.uint32)[0] >> 16)
    checks, _ = gate(InputQuality(input="x", min=0, max=1), datatype="BF16")
    assert checks.check(tensor([[one, 0, one]], "BF16")) == ""
    assert "is -1, under min 0" in checks.check(tensor([[one | 0x8000, 0, 0]], "BF16"))


def test_a_request_without_elements_has_nothing_bad() -> None:
    checks, _ = gate(PIXELS)
    assert checks.check((Tensor("x", "FP32", np.empty((0, WIDTH), np.float32)),)) == ""


def test_the_features_of_a_wide_model_are_few_in_the_counts() -> None:
    counts = QualityCounts()
    counts.add([Violation(f"x.{index}", "missing", 2, "") for index in range(FEATURES_MAX + 10)])
    counts.add([Violation("x.0", "missing", 1, "")])
    assert len(counts.values) == FEATURES_MAX + 1
    assert (counts.values["x.0", "missing"], counts.values["other", "missing"]) == (3, 20)


def test_thousands_of_bad_features_are_told_of_in_a_few_words() -> None:
    width = 5000
    each = tuple(FeatureQuality(name=f"f{index}", max=1) for index in range(width))
    checks, counts = gate(InputQuality(input="x", features=each), width=width)
    text = checks.check(tensor([[2] * width] * 2))
    assert (
        text
        == f"input 'x', feature 'f0': row 0 is 2, over max 1, and 1 more of its values; other faults: {FEATURES_MAX}"
    )
    assert counts.values["other", "above_max"] == 2 * (width - FEATURES_MAX)


def test_a_single_feature_is_named_as_one() -> None:
    checks, _ = gate(InputQuality(input="x", max=1, features=(FeatureQuality(name="age"),)), width=1)
    assert checks.check(tensor([[0], [2]])) == "input 'x', feature 'age': row 1 is 2, over max 1"


def test_only_what_the_manifest_speaks_of_is_looked_at() -> None:
    specs = (TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "FP32", (-1, 1)))
    checks = QualityGate(
        (InputQuality(input="b", max=1),), Signature(specs, (SCORE,), True), counts=QualityCounts(), rejects=False
    )
    big, one = np.array([[9]], np.float32), np.array([[1]], np.float32)
    assert checks.check((Tensor("a", "FP32", big), Tensor("b", "FP32", one))) == ""
    assert checks.check((Tensor("a", "FP32", one), Tensor("b", "FP32", big))).startswith("input 'b'")


def test_several_faults_say_the_first_and_how_many_others() -> None:
    one = Violation("x.age", "missing", 1, "input 'x', feature 'age': row 0 is missing (NaN)")
    assert fault([one]) == one.first
    assert fault([one, one._replace(feature="x.height")]) == f"{one.first}; other faults: 1"


some = st.floats(-20, 20, width=32) | st.just(np.nan)
floats = hnp.arrays(np.float32, (4, WIDTH), elements=some)
bounds = st.none() | st.integers(-20, 20)


@st.composite
def qualities(draw: st.DrawFn) -> InputQuality:
    def limits() -> dict[str, Any]:
        low, high = draw(bounds), draw(bounds)
        return {"min": low, "max": high, "allow_missing": draw(st.booleans())}

    each = tuple(FeatureQuality(name=name, **limits()) for name in NAMES) if draw(st.booleans()) else ()
    return InputQuality(input="x", features=each, **limits())


@given(qualities(), floats)
def test_it_finds_what_looking_at_every_value_one_by_one_finds(quality: InputQuality, values: Any) -> None:
    expected: dict[tuple[str, str], int] = {}
    limits = quality.limits
    for row in values:
        for index, value in enumerate(row):
            own = limits[index] if len(limits) > 1 else limits[0]
            for kind, bad in (
                ("missing", np.isnan(value) and not own.allow_missing),
                ("below_min", own.min is not None and value < own.min),
                ("above_max", own.max is not None and value > own.max),
            ):
                if bad:
                    expected[own.feature, kind] = expected.get((own.feature, kind), 0) + 1
    checks, counts = gate(quality)
    assert bool(checks.check((Tensor("x", "FP32", values),))) == bool(expected)
    assert dict(counts.values) == expected


def test_one_look_is_enough_for_all_that_are_watched() -> None:
    checks, counts = gate(PIXELS)
    good, bad, small = (checks.watch(tensor(rows)) for rows in ([[0, 1, 2]], [[1, 17, 2]], [[0, 8, 16], [1, 1, 1]]))
    assert [look.found for look in (good, bad, small)] == [None, None, None]
    assert good.doubts() == ""
    assert bad.found == "input 'x': element [0, 1] is 17, over max 16"
    assert (small.found, bad.refused) == ("", False)
    assert (counts.requests, dict(counts.values)) == (1, {("x", "above_max"): 1})
    assert bad.doubts() == bad.found
    assert counts.requests == 1  # nobody is counted twice


def test_what_would_be_refused_and_what_is_large_is_looked_at_at_once() -> None:
    checks, _ = gate(PIXELS, rejects=True)
    assert [(look.found, look.refused) for look in (checks.watch(tensor([[0, 1, 2]])),)] == [("", False)]
    assert checks.watch(tensor([[0, 17, 2]])).refused
    checks, counts = gate(PIXELS)
    large = np.full((JOINED_MAX, WIDTH), 8)
    assert checks.watch(tensor(large)).found == ""
    large[-1, -1] = 17
    assert "over max 16" in (checks.watch(tensor(large)).found or "")
    assert counts.requests == 1


def test_requests_of_which_nobody_asks_are_not_kept_for_ever() -> None:
    checks, counts = gate(PIXELS)
    looks = [checks.watch(tensor([[0, 99, 2]])) for _ in range(LOOKS_MAX)]
    assert all(look.found for look in looks)
    assert counts.requests == LOOKS_MAX


@given(qualities(), st.lists(hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.just(WIDTH)), elements=some)))
def test_watched_together_they_are_what_they_are_one_by_one(quality: InputQuality, batches: list[Any]) -> None:
    together, counts = gate(quality)
    alone, counts_alone = gate(quality)
    looks = [together.watch(tensor(batch)) for batch in batches]
    assert [look.doubts() for look in looks] == [alone.check(tensor(batch)) for batch in batches]
    assert counts.values == counts_alone.values


@pytest.mark.parametrize("datatype", ["BF16", "INT8", "UINT64"])
def test_so_they_are_in_every_datatype(datatype: str) -> None:
    checks, _ = gate(InputQuality(input="x", min=0, max=1), datatype=datatype)
    looks = [checks.watch(tensor([[0, 0, top]], datatype)) for top in (0, 100, 0)]
    expected = [checks.check(look.inputs) for look in looks]
    assert [look.doubts() for look in looks] == expected
