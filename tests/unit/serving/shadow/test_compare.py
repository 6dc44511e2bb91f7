"""Two answers agree only if the rule has looked at everything it speaks of, and found it so."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inference import DATATYPES, Tensor, Tensors
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.shadow.compare import Close, Comparison, Rule, SameLabel, Within, compare, rule_fault, rule_of
from tests.fakes import publish_version

RULES: tuple[Rule, ...] = (SameLabel(), Within(1e-4, 1e-3), Close(0.1), Close(0.1, "jensen_shannon"))


def tensor(datatype: str, values: Any, name: str = "y") -> Tensor:
    return Tensor(name, datatype, np.array(values, dtype=DATATYPES[datatype].dtype))


def scores(*rows: tuple[float, ...]) -> Tensors:
    return (tensor("FP64", rows, "scores"),)


def rows_compared(a: Tensors, b: Tensors, rule: Rule) -> Comparison:
    return compare(a, b, rule, rows=len(a[0].array), batched=True)


def distributions(rows: int, classes: int = 4) -> st.SearchStrategy[Tensors]:
    """Outputs of a classifier: probabilities that aren't all zero, and add up to 1."""
    weights = st.lists(st.floats(1e-6, 1e3), min_size=classes, max_size=classes)
    return st.lists(weights, min_size=rows, max_size=rows).map(
        lambda found: scores(*(tuple(np.array(row) / sum(row)) for row in found))
    )


def anything(rows: int) -> st.SearchStrategy[Tensors]:
    """Scores of any kind, NaN and infinities included."""
    row = st.lists(st.floats(), min_size=3, max_size=3).map(tuple)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda found: scores(*found))


@given(distributions(3), st.sampled_from(RULES))
def test_an_answer_agrees_with_itself_in_every_row(answer: Tensors, rule: Rule) -> None:
    found = rows_compared(answer, answer, rule)
    assert (found.rows, found.agreed, found.reason, found.why) == (3, 3, "", "")
    assert found.worst < 1e-6


@given(distributions(3), distributions(3), st.sampled_from(RULES))
def test_it_does_not_matter_who_is_compared_with_whom(a: Tensors, b: Tensors, rule: Rule) -> None:
    there, back = rows_compared(a, b, rule), rows_compared(b, a, rule)
    assert (there.agreed, there.reason) == (back.agreed, back.reason)
    assert there.worst == pytest.approx(back.worst)


@given(anything(4), anything(4), st.sampled_from(RULES), st.tuples(st.integers(0, 3), st.integers(0, 2)))
def test_a_row_with_a_nan_never_agrees(a: Tensors, b: Tensors, rule: Rule, place: tuple[int, int]) -> None:
    b[0].array[place] = math.nan
    for other in (a, b):  # the second time it is on both sides
        found = rows_compared(other, b, rule)
        assert found.agreed <= 3
        assert (found.reason != "", found.worst) == (True, math.inf)


@given(anything(3), anything(3), st.sampled_from(RULES))
def test_whatever_the_numbers_are_comparing_them_says_something_consistent(a: Tensors, b: Tensors, rule: Rule) -> None:
    found = rows_compared(a, b, rule)
    assert 0 <= found.agreed <= found.rows == 3
    assert (found.agreed == 3) == (found.reason == "") == (found.why == "")
    assert found.worst >= 0


@given(distributions(1), distributions(1))
def test_the_distances_are_between_nothing_and_everything_and_bound_each_other(a: Tensors, b: Tensors) -> None:
    variation, shannon = (rows_compared(a, b, Close(1.0, each)).worst for each in ("total_variation", "jensen_shannon"))
    assert 0 <= variation <= 1 + 1e-9
    assert 0 <= shannon <= 1 + 1e-9
    assert shannon**2 <= variation + 1e-9  # Lin 1991, theorem 3


def test_the_distances_are_those_of_the_books() -> None:
    apart = scores((1.0, 0.0)), scores((0.0, 1.0))
    half = scores((1.0, 0.0)), scores((0.5, 0.5))
    assert rows_compared(*apart, Close(1.0)).worst == 1.0
    assert rows_compared(*apart, Close(1.0, "jensen_shannon")).worst == 1.0
    assert rows_compared(*half, Close(1.0)).worst == 0.5
    assert rows_compared(*half, Close(1.0, "jensen_shannon")).worst == pytest.approx(0.5579230452841438)


def test_labels_are_compared_row_by_row_and_scores_beside_them_may_differ() -> None:
    mine = (tensor("INT64", [1, 2, 3], "label"), *scores((0.9, 0.1), (0.5, 0.5), (0.4, 0.6)))
    theirs = (tensor("INT64", [1, 7, 3], "label"), *scores((0.6, 0.4), (0.5, 0.5), (0.4, 0.6)))
    assert rows_compared(mine, theirs, SameLabel()) == Comparison(3, 2, 1.0, "label", "row 1: another 'label'")


def test_texts_are_labels_too() -> None:
    mine, theirs = (tensor("BYTES", [b"kelp", b"crab"]),), (tensor("BYTES", [b"kelp", b"clam"]),)
    assert rows_compared(mine, theirs, SameLabel()).agreed == 1


def test_without_a_label_the_largest_score_is_one() -> None:
    mine, theirs = scores((3, 1, 2), (1, 2, 3)), scores((9, 0, 8), (3, 2, 1))
    found = rows_compared(mine, theirs, SameLabel())
    assert (found.agreed, found.why) == (1, "row 1: another largest in 'scores'")


def test_a_label_beside_a_nan_is_not_agreed_upon() -> None:
    mine = (tensor("INT64", [1], "label"), *scores((0.9, 0.1)))
    theirs = (tensor("INT64", [1], "label"), *scores((0.9, math.nan)))
    found = rows_compared(mine, theirs, SameLabel())
    assert (found.agreed, found.reason) == (0, "nan")


def test_where_there_is_only_one_score_there_is_no_largest() -> None:
    found = rows_compared(scores((1,), (2,)), scores((1,), (5,)), SameLabel())
    assert (found.agreed, found.reason) == (0, "form")


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        (100.0, 100.1, True),
        (100.0, 100.2, False),
        (0.0, 0.0001, True),
        (0.0, 0.0002, False),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.inf, 1e300, False),
        (1e308, -1e308, False),
    ],
)
def test_floats_may_differ_by_the_tolerance(a: float, b: float, agree: bool) -> None:
    assert (rows_compared(scores((a,)), scores((b,)), Within(1e-4, 1e-3)).agreed == 1) is agree


def test_integers_are_not_given_any_tolerance_and_are_compared_exactly() -> None:
    big = 2**62
    found = rows_compared((tensor("INT64", [big, big]),), (tensor("INT64", [big, big + 1]),), Within(5, 5))
    assert (found.agreed, found.reason) == (1, "label")


def test_half_precision_is_compared_by_its_values() -> None:
    one, almost = 0x3F80, 0x3F81  # BF16: 1.0 and 1.0078125
    mine, theirs = (tensor("BF16", [one]),), (tensor("BF16", [almost]),)
    assert rows_compared(mine, theirs, Within(0.0, 0.0)).worst == 0.0078125


def test_what_is_no_distribution_is_near_nothing() -> None:
    for odd in ((0.5, 0.4), (1.5, -0.5), (math.inf, 0.0)):
        found = rows_compared(scores(odd), scores(odd), Close(1.0))
        assert (found.agreed, found.reason) == (0, "not_probabilities")


def test_a_model_without_a_batch_dimension_has_one_row() -> None:
    a, b = (tensor("FP32", [0.2, 0.8]),), (tensor("FP32", [0.8, 0.2]),)
    for rule in RULES:
        assert compare(a, a, rule, rows=1, batched=False).agreed == 1
        found = compare(a, b, rule, rows=1, batched=False)
        assert (found.rows, found.agreed) == (1, 0)


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ((), "0 outputs where the model has 1"),
        ((tensor("FP32", [[1, 2]], "z"),), "output 'z' where the model has 'y'"),
        ((tensor("FP64", [[1, 2]]),), "output 'y' is FP64 where the model's is FP32"),
        ((tensor("FP32", [[1, 2, 3]]),), "output 'y' has shape [1, 3] where the model's has [1, 2]"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_another_form_is_a_disagreement_with_a_reason(theirs: Tensors, why: str, rule: Rule) -> None:
    found = rows_compared((tensor("FP32", [[1, 2]]),), theirs, rule)
    assert found == Comparison(1, 0, math.inf, "form", why)


def test_what_the_rule_does_not_speak_of_is_not_agreed_upon() -> None:
    label = (tensor("INT64", [1]),)
    assert rows_compared(label, label, Close(1.0)).reason == "form"
    assert compare((), (), Within(0, 0), rows=1, batched=False).reason == "form"
    assert compare(label, label, SameLabel(), rows=2, batched=True).reason == "form"


@pytest.mark.parametrize(
    ("outputs", "rule", "fault"),
    [
        ((TensorSpec("y", "FP32", (-1, 2)),), Close(0.1), None),
        ((TensorSpec("y", "INT64", (-1,)),), Close(0.1), "a distance needs an output of floats"),
        ((TensorSpec("y", "FP32", (-1, 2)),), SameLabel(), None),
        ((TensorSpec("y", "FP32", (-1,)),), SameLabel(), "output 'y' has no classes"),
        ((TensorSpec("y", "FP32", (-1, 1)),), SameLabel(), "output 'y' has no classes"),
        ((TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "BYTES", (-1,))), SameLabel(), None),
        ((TensorSpec("y", "FP32", (-1,)),), Within(0, 0), None),
    ],
)
def test_a_rule_that_a_signature_gives_nothing_to_look_at_is_told(
    outputs: tuple[TensorSpec, ...], rule: Rule, fault: str | None
) -> None:
    found = rule_fault(rule, Signature((TensorSpec("x", "FP32", (-1, 2)),), outputs, batched=True))
    assert (found is None) if fault is None else (found is not None and found.startswith(fault))


def test_a_version_with_labels_is_compared_by_them_and_others_by_their_golden_tolerance(tmp_path: Any) -> None:
    plain = publish_version(Registry(tmp_path), "m", "v1")
    assert rule_of(plain) == Within(plain.golden.absolute_tolerance, plain.golden.relative_tolerance)
    assert rule_of(msgspec.structs.replace(plain, labels=("a", "b"))) == SameLabel()
