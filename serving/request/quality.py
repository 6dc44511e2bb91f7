"""Whether a request's values are those that the version was made for: ranges and missing values, by its manifest. Pure.

Values that are all good cost a few numpy operations, which requests under way at the same time share; which value is
bad is looked for only when one is. Not here: what a manifest may say (``models.quality``), what becomes of such a
request (``serving.request.pipeline``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil, floor, inf
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from models.inference import DATATYPES, Array, Tensor, Tensors, numbers
from models.quality import InputQuality, Limits
from models.signature import Signature

MISSING: Final = "missing"
BELOW: Final = "below_min"
ABOVE: Final = "above_max"

FEATURES_MAX: Final = 50
"""So many features of a model are counted by their names; the others, should they be bad, together."""
OTHER_FEATURES: Final = "other"

JOINED_MAX: Final = 4096
"""Inputs with more elements are looked at by themselves: joining them would cost more than it saves."""
LOOKS_MAX: Final = 256

Mask = npt.NDArray[np.bool_]


class Violation(NamedTuple):
    """``values`` of one feature that shouldn't be so; ``first`` says where and what the first of this kind is."""

    feature: str
    kind: str
    values: int
    first: str


class QualityCounts:
    """How many values of a model were bad, by feature and kind; outlives its versions."""

    def __init__(self) -> None:
        self.values: Counter[tuple[str, str]] = Counter()
        self.requests = 0
        self._features: set[str] = set()

    def add(self, violations: Sequence[Violation]) -> None:
        self.requests += 1
        for violation in violations:
            self.values[self._label(violation.feature), violation.kind] += violation.values

    def _label(self, feature: str) -> str:
        if feature != OTHER_FEATURES and feature not in self._features:
            if len(self._features) >= FEATURES_MAX:
                return OTHER_FEATURES
            self._features.add(feature)
        return feature


class Look(msgspec.Struct):
    """What there is to say of a request's values, once somebody wants to know. ``refused``: it is to go no further."""

    gate: QualityGate
    inputs: Tensors
    found: str | None = None
    refused: bool = False

    def doubts(self) -> str:
        """What is bad; empty if nothing is."""
        if self.found is None:
            self.gate.look()
        return self.found or ""


class QualityGate:
    """Checks requests for one version. ``rejects``: requests with a bad value are refused."""

    def __init__(
        self, quality: Sequence[InputQuality], signature: Signature, *, counts: QualityCounts, rejects: bool
    ) -> None:
        self._rejects = rejects
        self._counts = counts
        names = [spec.name for spec in signature.inputs]
        self._looks: list[Look] = []
        self._inputs = [
            (index, _InputGate(entry, signature.inputs[index].datatype))
            for entry in quality
            for index in (names.index(entry.input),)
        ]

    def check(self, inputs: Tensors) -> str:
        """What is bad of these inputs, which are in the signature's order; empty if nothing is."""
        for index, gate in self._inputs:
            if not gate.good(inputs[index]):
                return self._look_closer(inputs)
        return ""

    def watch(self, inputs: Tensors) -> Look:
        """A ``check`` that waits until somebody asks: then it is one for all that are watched.

        Not if bad values are refused, and not of large inputs.
        """
        look = Look(self, inputs)
        for index, _ in self._inputs:
            if self._rejects or inputs[index].array.size > JOINED_MAX:
                look.found = self.check(inputs)
                look.refused = self._rejects and bool(look.found)
                return look
        self._looks.append(look)
        if len(self._looks) >= LOOKS_MAX:  # of requests that were cancelled nobody asks
            self.look()
        return look

    def look(self) -> None:
        """Settle whatever is watched."""
        looks, self._looks = self._looks, []
        good = all(gate.all_good([look.inputs[index] for look in looks]) for index, gate in self._inputs)
        for look in looks:
            look.found = "" if good else self.check(look.inputs)

    def _look_closer(self, inputs: Tensors) -> str:
        violations = [found for index, gate in self._inputs for found in gate.violations(inputs[index])]
        if not violations:
            return ""
        self._counts.add(violations)
        return fault(violations)


def fault(violations: Sequence[Violation]) -> str:
    """For the caller: the first of them in full, and how many others there are."""
    first, *others = violations
    more = f", and {first.values - 1} more of its values" if first.values > 1 else ""
    text = f"{first.first}{more}"
    return f"{text}; other faults: {len(others)}" if others else text


class _InputGate:
    """The limits of one input, as arrays of its own dtype that broadcast over its last dimension."""

    def __init__(self, quality: InputQuality, datatype: str) -> None:
        self._input = quality.input
        self._named = bool(quality.features)
        self._limits = quality.limits
        self._encoded = datatype == "BF16"
        self._dtype = np.dtype(np.float32) if self._encoded else DATATYPES[datatype].dtype
        self._low = self._array([-inf if each.min is None else each.min for each in self._limits], up=True)
        self._high = self._array([inf if each.max is None else each.max for each in self._limits], up=False)
        one = self._limits[0]
        alone = len(self._limits) == 1 and not (one.allow_missing and self._dtype.kind == "f")
        self._range = (self._low.item(), self._high.item()) if alone and self._low.dtype != object else None
        """Of all values alike, if none may be missing: for small tensors the quickest look by far."""
        self._may_miss: Mask = np.array([each.allow_missing for each in self._limits])
        self._all_may_miss = bool(self._may_miss.all()) or self._dtype.kind != "f"

    def good(self, tensor: Tensor) -> bool:
        """Whether nothing is bad for certain. If only some features may be missing, a missing one is looked at."""
        return self._within(numbers(tensor) if self._encoded else tensor.array)

    def all_good(self, tensors: Sequence[Tensor]) -> bool:
        """The same of several tensors, joined."""
        if len(tensors) == 1:
            return self.good(tensors[0])
        arrays = [numbers(tensor) for tensor in tensors] if self._encoded else [tensor.array for tensor in tensors]
        if len(self._limits) == 1:
            return self._within(np.concatenate(arrays, axis=None))
        return self._within(np.concatenate([array.reshape(-1, len(self._limits)) for array in arrays]))

    def _within(self, array: Array) -> bool:
        if self._range is not None and array.size:  # of NaNs the first is taken for the least and the greatest
            low, high = self._range
            return bool(low <= array.item(array.argmin()) and array.item(array.argmax()) <= high)
        if self._all_may_miss:  # every comparison with a NaN is false
            return not np.count_nonzero((array < self._low) | (array > self._high))
        return bool(np.count_nonzero((array >= self._low) & (array <= self._high)) == array.size)

    def violations(self, tensor: Tensor) -> Iterator[Violation]:
        array = numbers(tensor)
        missing: Mask = np.isnan(array) & ~self._may_miss if self._dtype.kind == "f" else np.zeros(array.shape, bool)
        for kind, bad in ((MISSING, missing), (BELOW, array < self._low), (ABOVE, array > self._high)):
            if not np.count_nonzero(bad):
                continue
            first = self._first(kind, np.asarray(bad), array)
            if self._named:
                yield from self._of_features(kind, np.asarray(bad), first)
            else:
                yield Violation(self._limits[0].feature, kind, int(np.count_nonzero(bad)), first)

    def _of_features(self, kind: str, bad: Mask, first: str) -> Iterator[Violation]:
        """One for each feature, of thousands only for the first ones: it is the event loop that waits."""
        values = np.count_nonzero(bad.reshape(-1, len(self._limits)), axis=0)
        features = np.flatnonzero(values)
        for index in features[:FEATURES_MAX]:
            yield Violation(self._limits[index].feature, kind, int(values[index]), first)
        if len(features) > FEATURES_MAX:
            yield Violation(OTHER_FEATURES, kind, int(values[features[FEATURES_MAX:]].sum()), first)

    def _first(self, kind: str, bad: Mask, array: Array) -> str:
        """What and where the first bad value is; the first of the first feature that has one."""
        if self._named:
            rows = bad.reshape(-1, len(self._limits))
            index = int(rows.any(axis=0).argmax())
            row = int(rows[:, index].argmax())
            limits, value = self._limits[index], array.reshape(rows.shape)[row, index]
            where = f"input '{self._input}', feature '{limits.feature.removeprefix(self._input)[1:]}': row {row}"
        else:
            at = [int(place) for place in np.unravel_index(int(bad.argmax()), bad.shape)]
            limits, value = self._limits[0], array[tuple(at)]
            where = f"input '{self._input}': element {at}"
        return f"{where} is missing (NaN)" if kind == MISSING else f"{where} is {value:g}, {_beyond(kind, limits)}"

    def _array(self, values: list[float], *, up: bool) -> Array:
        if self._dtype.kind == "f":
            with np.errstate(over="ignore"):  # a bound that no such number reaches is infinite
                return self._one_or_all(np.array(values, self._dtype))
        info = np.iinfo(self._dtype.name)
        whole = [info.min if value == -inf else info.max if value == inf else _whole(value, up) for value in values]
        if any(not info.min <= value <= info.max for value in whole):
            # A bound beyond the type's own range: compare as Python's integers would, which numpy does for objects.
            return self._one_or_all(np.array(whole, object))
        return self._one_or_all(np.array(whole, self._dtype))

    def _one_or_all(self, bounds: Array) -> Array:
        """A single bound as an array without dimensions: numpy compares with such a one fastest."""
        return bounds.reshape(()) if len(bounds) == 1 else bounds


def _whole(value: float, up: bool) -> int:
    return ceil(value) if up else floor(value)


def _beyond(kind: str, limits: Limits) -> str:
    return f"under min {limits.min:g}" if kind == BELOW else f"over max {limits.max:g}"
