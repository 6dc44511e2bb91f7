"""Whether a shadow's answer agrees with the model's, row by row, and how far it is off. Pure.

Nothing is ever in agreement for want of a look: another form, a NaN on either side, or rows that aren't what the rule
speaks of, are disagreements with a reason, never exceptions. Not here: who is asked and when
(``serving.shadow.mirror``).
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from models.inference import DATATYPES, Array, Tensor, Tensors, numbers
from models.manifest import Manifest
from models.signature import Signature

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

Measure = Literal["total_variation", "jensen_shannon"]
Reason = Literal["", "form", "nan", "label", "tolerance", "distance", "not_probabilities"]
"""The kind of the first disagreement; empty if there is none."""

REASONS: Final[tuple[Reason, ...]] = tuple(reason for reason in get_args(Reason) if reason)

SUM_SLACK: Final = 1e-3
"""How far the sum of probabilities may be from 1: they may have been computed in half precision."""


class SameLabel(NamedTuple):
    """Integer, boolean and BYTES outputs must be equal; without any, the largest of each float output's last axis.

    How far apart the scores are doesn't matter.
    """


class Within(NamedTuple):
    """Floats may differ by ``absolute + relative * max(|a|, |b|)``; everything else must be equal.

    A golden example is held to ``relative * |expected|``; of two models neither is the expected one.
    """

    absolute: float
    relative: float


class Close(NamedTuple):
    """The last axis of each float output is a distribution; the distance of two may be ``at_most``, from 0 to 1.

    ``total_variation`` is half the sum of absolute differences. ``jensen_shannon`` is the square root of the
    Jensen-Shannon divergence to base 2, which is a metric (Lin 1991; Endres and Schindelin 2003). Labels don't matter.
    """

    at_most: float
    measure: Measure = "total_variation"


Rule = SameLabel | Within | Close


class Comparison(NamedTuple):
    """How many of the rows agree; ``why`` tells of the first one that doesn't, ``reason`` what kind of thing that is.

    ``worst`` is what the rule measures, where it was largest: 1 for another label, the difference for ``Within``,
    the distance for ``Close``; infinite where nothing could be measured.
    """

    rows: int
    agreed: int
    worst: float
    reason: Reason = ""
    why: str = ""


def rule_of(manifest: Manifest) -> Rule:
    """The version's own: its labels if it is a classifier, else the tolerance of its golden examples."""
    if manifest.labels is not None:
        return SameLabel()
    return Within(manifest.golden.absolute_tolerance, manifest.golden.relative_tolerance)


def rule_fault(rule: Rule, signature: Signature) -> str | None:
    """Why answers of this signature can't be compared by the rule, or None."""
    floats = [spec for spec in signature.outputs if DATATYPES[spec.datatype].kind == "float"]
    if isinstance(rule, Close) and not floats:
        return "a distance needs an output of floats, and there is none"
    if isinstance(rule, SameLabel) and len(floats) == len(signature.outputs):
        for spec in floats:
            if len(spec.shape) <= signature.batched or spec.shape[-1] == 1:
                return f"output '{spec.name}' has no classes, and no other output is a label"
    return None


def compare(primary: Tensors, shadow: Tensors, rule: Rule, *, rows: int, batched: bool) -> Comparison:
    """The answers of two versions to the same ``rows`` rows; a model without a batch dimension has one."""
    if (fault := _form_fault(primary, shadow, rows, batched=batched)) is not None:
        return Comparison(rows, 0, math.inf, "form", fault)
    if (fault := _blindness(primary, rule)) is not None:
        return Comparison(rows, 0, math.inf, "form", fault)
    found = _Found(rows)
    labelled = any(DATATYPES[tensor.datatype].kind != "float" for tensor in primary)
    for mine, theirs in zip(primary, shadow, strict=True):
        if DATATYPES[mine.datatype].kind != "float":
            if not isinstance(rule, Close):
                found.hold("label", f"another '{mine.name}'", _other(mine.array, theirs.array, rows), at_most=0.0)
            continue
        a, b = _floats(mine, batched=batched), _floats(theirs, batched=batched)
        unknown = (np.isnan(a) | np.isnan(b)).reshape(rows, -1).any(axis=1)
        found.hold("nan", f"'{mine.name}' holds NaN", np.where(unknown, math.inf, 0.0), at_most=0.0)
        if isinstance(rule, Within):
            _hold_within(found, mine.name, a, b, rule)
        elif isinstance(rule, Close):
            _hold_close(found, mine.name, a, b, rule)
        elif not labelled:
            _hold_largest(found, mine.name, a, b)
    return found.comparison()


class _Found:
    """What the outputs have shown so far of each row. A row that has been refused stays so, for its first reason."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._good: Bools = np.ones(rows, dtype=np.bool_)
        self._worst = 0.0
        self._reason: Reason = ""
        self._why = ""

    def hold(self, reason: Reason, what: str, measured: Floats, *, at_most: float) -> None:
        """Refuse the rows that measure more than this."""
        self.refuse(reason, what, measured, measured > at_most)

    def refuse(self, reason: Reason, what: str, measured: Floats, bad: Bools) -> None:
        """Refuse the rows that are ``bad``; of those and the others, keep the largest measure."""
        measured = measured[self._good]
        self._worst = max(self._worst, float(measured.max(initial=0.0)))
        fresh = bad & self._good
        if not fresh.any():
            return
        if not self._reason:
            row = int(fresh.argmax())
            self._reason, self._why = reason, f"row {row}: {what}"
        self._good &= ~bad

    def by_row(self, array: Any) -> npt.NDArray[Any]:
        """The same elements, those of each row in a row."""
        return np.asarray(array).reshape(self.rows, -1)

    def comparison(self) -> Comparison:
        agreed = int(np.count_nonzero(self._good))
        return Comparison(self.rows, agreed, self._worst, self._reason, self._why)


def _form_fault(primary: Tensors, shadow: Tensors, rows: int, *, batched: bool) -> str | None:
    if len(primary) != len(shadow):
        return f"{len(shadow)} outputs where the model has {len(primary)}"
    for mine, theirs in zip(primary, shadow, strict=True):
        if mine.name != theirs.name:
            return f"output '{theirs.name}' where the model has '{mine.name}'"
        if mine.datatype != theirs.datatype or mine.array.dtype != theirs.array.dtype:
            return f"output '{mine.name}' is {theirs.datatype} where the model's is {mine.datatype}"
        if mine.shape != theirs.shape:
            return f"output '{mine.name}' has shape {list(theirs.shape)} where the model's has {list(mine.shape)}"
        if rows < 1 or (mine.shape[:1] != (rows,) if batched else rows != 1):
            return f"output '{mine.name}' has shape {list(mine.shape)} for {rows} rows"
    return None


def _blindness(outputs: Tensors, rule: Rule) -> str | None:
    """Why the rule would find nothing in these outputs to look at, or None."""
    if not outputs or (isinstance(rule, Close) and all(DATATYPES[each.datatype].kind != "float" for each in outputs)):
        return "there is no output that the rule speaks of"
    return None


def _other(a: Array, b: Array, rows: int) -> Floats:
    """1 for each row that isn't equal, else 0."""
    other = np.asarray(a != b, dtype=np.bool_).reshape(rows, -1)
    return np.asarray(other.any(axis=1), dtype=np.float64)


def _floats(tensor: Tensor, *, batched: bool) -> Floats:
    """The elements in double precision; there is always a last axis, which isn't that of the rows."""
    array = np.asarray(numbers(tensor), dtype=np.float64)
    return np.asarray(np.expand_dims(array, -1) if array.ndim <= batched else array)


def _hold_within(found: _Found, name: str, a: Floats, b: Floats, rule: Within) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(a == b, 0.0, np.abs(a - b))  # the difference of equal infinities would be NaN
        allowed = rule.absolute + rule.relative * np.maximum(np.abs(a), np.abs(b))
        bad = np.logical_not((off <= allowed) & np.isfinite(off))
    worst = found.by_row(off).max(axis=1, initial=0.0)
    found.refuse("tolerance", f"'{name}' is out of tolerance", worst, np.asarray(found.by_row(bad).any(axis=1)))


def _hold_largest(found: _Found, name: str, a: Floats, b: Floats) -> None:
    if a.shape[-1] < 2:
        all_rows = np.ones(found.rows, dtype=np.bool_)
        found.refuse("form", f"'{name}' has no classes", np.where(all_rows, math.inf, 0.0), all_rows)
        return
    other = found.by_row(a.argmax(axis=-1) != b.argmax(axis=-1)).any(axis=1)
    found.hold("label", f"another largest in '{name}'", np.asarray(other, dtype=np.float64), at_most=0.0)


def _hold_close(found: _Found, name: str, a: Floats, b: Floats, rule: Close) -> None:
    improper = np.asarray(found.by_row(_improper(a) | _improper(b)).any(axis=1))
    unknown = np.asarray(np.where(improper, math.inf, 0.0))
    found.refuse("not_probabilities", f"'{name}' isn't a distribution", unknown, improper)
    measure = _total_variation if rule.measure == "total_variation" else _jensen_shannon
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        apart = found.by_row(measure(a, b)).max(axis=1, initial=0.0)
    found.hold("distance", f"'{name}' is too far apart", apart, at_most=rule.at_most)


def _improper(p: Floats) -> Bools:
    """Whether something on the last axis isn't a probability, or they don't add up to 1."""
    with np.errstate(invalid="ignore", over="ignore"):
        proper = (p >= 0).all(axis=-1) & (np.abs(p.sum(axis=-1) - 1.0) <= SUM_SLACK)
    return np.asarray(np.logical_not(proper))


def _total_variation(p: Floats, q: Floats) -> Floats:
    return 0.5 * np.asarray(np.abs(p - q).sum(axis=-1))


def _jensen_shannon(p: Floats, q: Floats) -> Floats:
    middle = 0.5 * (p + q)
    divergence = 0.5 * (_relative_entropy(p, middle) + _relative_entropy(q, middle))
    return np.asarray(np.sqrt(np.maximum(divergence, 0.0)))


def _relative_entropy(p: Floats, q: Floats) -> Floats:
    """To base 2; 0 log 0 is 0."""
    return np.asarray(np.where(p > 0, p * np.log2(p / q), 0.0).sum(axis=-1))
