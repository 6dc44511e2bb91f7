"""What values a model version's inputs should have: ranges, and whether a value may be missing. Pure.

It says what the version was made for, not what it can compute: the signature alone decides what is a request. Not
here: checking a request (``serving.request.quality``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from models.errors import InvalidManifest
from models.inference import DATATYPES
from models.signature import ANY, Signature, TensorSpec


class FeatureQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One feature, a place in the last dimension of its input. What it leaves out holds as the input says it."""

    name: str
    min: float | None = None
    max: float | None = None
    allow_missing: bool | None = None

    def __post_init__(self) -> None:
        _as_floats(self)


class InputQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The values of one input, from ``min`` to ``max``. ``allow_missing``: a NaN stands for a value that isn't known.

    ``features``, if there are any, are all places of the last dimension, in order.
    """

    input: str
    min: float | None = None
    max: float | None = None
    allow_missing: bool = False
    features: tuple[FeatureQuality, ...] = ()

    def __post_init__(self) -> None:
        _as_floats(self)

    @property
    def limits(self) -> tuple[Limits, ...]:
        """What holds of each feature, or, without features, of all values alike."""
        own = Limits(self.input, self.min, self.max, self.allow_missing)
        return tuple([_over(own, feature) for feature in self.features]) or (own,)

    def text(self) -> str:
        """In a few words, for people."""
        if self.features:
            return f"{self.input}: {len(self.features)} features, each with a range"
        return f"{self.input}: {self.limits[0].text()}"


def _as_floats(limits: FeatureQuality | InputQuality) -> None:
    """A bound has one form, whoever writes it: else 0 and 0.0 would be two identities of one version."""
    for field in ("min", "max"):
        if (value := getattr(limits, field)) is not None:
            msgspec.structs.force_setattr(limits, field, float(value))


class Limits(NamedTuple):
    """What holds of one feature, or of a whole input; ``feature`` is ``input.name``, or the input."""

    feature: str
    min: float | None
    max: float | None
    allow_missing: bool

    def text(self) -> str:
        low = "" if self.min is None else f"at least {self.min:g}, "
        high = "" if self.max is None else f"at most {self.max:g}, "
        return f"{low}{high}{'may be missing' if self.allow_missing else 'never missing'}"


def _over(own: Limits, feature: FeatureQuality) -> Limits:
    return Limits(
        f"{own.feature}.{feature.name}",
        own.min if feature.min is None else feature.min,
        own.max if feature.max is None else feature.max,
        own.allow_missing if feature.allow_missing is None else feature.allow_missing,
    )


def check_quality(quality: tuple[InputQuality, ...], signature: Signature) -> None:
    """Raises ``InvalidManifest``, which names the field, unless all of it can be said of these inputs."""
    specs = {spec.name: spec for spec in signature.inputs}
    seen: set[str] = set()
    for index, entry in enumerate(quality):
        field = f"quality[{index}]"
        if entry.input not in specs:
            raise InvalidManifest(f"{field}.input: the model has no input '{entry.input}', only {sorted(specs)}")
        if entry.input in seen:
            raise InvalidManifest(f"{field}.input: '{entry.input}' stands there twice")
        seen.add(entry.input)
        _check_features(entry, specs[entry.input], field)
        for limits in entry.limits:
            _check_limits(limits, field)


def _check_features(entry: InputQuality, spec: TensorSpec, field: str) -> None:
    if DATATYPES[spec.datatype].kind not in ("int", "float"):
        raise InvalidManifest(f"{field}.input: '{spec.name}' holds {spec.datatype}, which has no range")
    names = [feature.name for feature in entry.features]
    if not names:
        return
    size = spec.shape[-1] if spec.shape else ANY
    if size == ANY or len(spec.shape) == 1:
        raise InvalidManifest(f"{field}.features: the last dimension of '{spec.name}' isn't one of features")
    if len(names) != size:
        raise InvalidManifest(f"{field}.features: {len(names)} where '{spec.name}' has {size}")
    if len(set(names)) != len(names) or "" in names:
        raise InvalidManifest(f"{field}.features: every one needs a name of its own")


def _check_limits(limits: Limits, field: str) -> None:
    for name, value in (("min", limits.min), ("max", limits.max)):
        if value is not None and not math.isfinite(value):
            raise InvalidManifest(f"{field}.{name}: {value} of '{limits.feature}' isn't a finite number")
    if limits.min is not None and limits.max is not None and limits.min > limits.max:
        raise InvalidManifest(f"{field}.min: {limits.min:g} of '{limits.feature}' is above max {limits.max:g}")
