"""What a rollout is to do, as its file says it: frozen, strict, in the words of Argo Rollouts and Flagger. Pure.

A ``RolloutSpec`` is plain data: it stands in the event log exactly as it was read, durations and all, so that a
replay judges by the same numbers. ``docs/rollouts.md`` is made from this file. Not here: reading YAML
(``serving.rollout.file``), and what happens in a rollout (``serving.rollout.state``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from serving.model_settings import Name

DURATION_PATTERN: Final = "^[1-9][0-9]{0,8}(ms|s|m|h)$"
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Duration = Annotated[str, Meta(pattern=DURATION_PATTERN)]
Percent = Annotated[int, Meta(ge=1, le=100)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Share = Annotated[float, Meta(gt=0, le=1)]


def seconds(duration: str) -> float:
    """``250ms``, ``30s``, ``5m``, ``1h`` in seconds."""
    number = duration.rstrip("msh")
    return int(number) * _UNITS_S[duration[len(number) :]]


class PauseFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """A halt at the weight that is in force. `{}` waits for a person: `holdfast rollout resume`."""

    duration: Annotated[Duration | None, Meta(description="How long. Left out: until a person says resume.")] = None


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """Either a weight or a pause, one key in each entry."""

    set_weight: Annotated[
        Percent | None,
        Meta(description="Percent of the requests that the canary takes from here on; never less than before."),
    ] = None
    pause: PauseFor | None = None

    def __post_init__(self) -> None:
        if (self.set_weight is None) == (self.pause is None):
            raise ValueError("a step is either setWeight or pause; waiting for a person is written `pause: {}`")


class BurnRateRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """One rule of the multi-window burn rate: both windows must be over the factor."""

    long: Annotated[Duration, Meta(description="The long window: it says that the loss matters.")]
    short: Annotated[Duration, Meta(description="The short window: it says that the loss goes on.")]
    factor: Annotated[
        float,
        Meta(
            gt=0,
            le=1e6,
            description="How many times faster than allowed the budget is used up. 1 would use up exactly all of it.",
        ),
    ]

    def __post_init__(self) -> None:
        if seconds(self.short) >= seconds(self.long):
            raise ValueError(f"short: {self.short} must be shorter than long, which is {self.long}")


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """The error budget: what share of the answers must be good, and how fast the rest may be used up."""

    objective: Annotated[
        float,
        Meta(gt=0, lt=1, description="Share of requests that must be answered well and in time; the rest is budget."),
    ] = 0.999
    burn_rates: Annotated[
        tuple[BurnRateRule, ...],
        Meta(
            min_length=1,
            max_length=8,
            description="A rule that both its windows break speaks against the canary, if more than chance does.",
        ),
    ] = (BurnRateRule(long="5m", short="30s", factor=14.4),)
    min_bad_events: Annotated[
        Count, Meta(description="Bad events that the long window must hold before the rate counts for anything.")
    ] = 10

    def __post_init__(self) -> None:
        for index, rule in enumerate(self.burn_rates):
            if rule.factor * (1 - self.objective) >= 1:
                raise ValueError(
                    f"burnRates[{index}].factor: {rule.factor:g} can't be reached: with objective {self.objective:g} "
                    f"the budget burns at most {1 / (1 - self.objective):g} times too fast; lower the factor"
                )


class ShadowRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """What the comparison with the mirrored answers must come to. At 100 % none are: the first weight must be less."""

    agreement: Annotated[Share, Meta(description="Share of compared answers that must agree.")]
    min_compared: Annotated[Count, Meta(description="Answers to compare before their agreement counts.")] = 100
    share: Annotated[
        Share, Meta(description="Share of the stable version's answers that is mirrored to the canary.")
    ] = 0.1


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """What speaks against the canary, and how much must speak for it before it gets more."""

    alpha: Annotated[
        float,
        Meta(
            gt=0,
            le=0.5,
            description="Chance that a canary is ever taken back by what is counted, all findings together, though it "
            "is no worse than the stable version, and within its limits.",
        ),
    ] = 0.01
    min_attempts: Annotated[
        Count,
        Meta(description="First attempts that the canary must have had at a weight before it gets the next one."),
    ] = 100
    latency_objective: Annotated[
        Duration | None, Meta(description="An answer that takes longer is a bad event. Left out: none is too slow.")
    ] = None
    slo: Slo = Slo()
    invalid_max: Annotated[
        float, Meta(ge=0, lt=1, description="Share of the canary's answers that may break its signature.")
    ] = 0.01
    shadow: ShadowRule | None = None
    metrics_timeout: Annotated[
        Duration, Meta(description="So long the gateways' figures may be missing before the rollout pauses.")
    ] = "30s"


class Bake(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """The time after promotion in which the canary has all requests and the prior version is kept warm."""

    duration: Annotated[Duration, Meta(description="How long. Only time in which the gateways report counts.")] = "10m"


OneStep = Annotated[Step, Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})]


class RolloutSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    """One rollout: which version takes over from which, in what steps, and what takes it back."""

    model: Annotated[Name, Meta(description="The model.")]
    version: Annotated[Name, Meta(description="The canary: the version that is to take over.")]
    from_: Annotated[
        Name | None,
        Meta(description="The stable version that it replaces. Refused if another one is stable. Left out: any."),
    ] = field(default=None, name="from")
    steps: Annotated[
        tuple[OneStep, ...],
        Meta(min_length=1, max_length=100, description="The way to all requests; the last weight is 100."),
    ]
    analysis: Analysis = Analysis()
    progress_deadline: Annotated[
        Duration,
        Meta(
            description="The canary must be ready by then, and within two minutes in any case, or is rolled back; each "
            "step and the bake must have `minAttempts` by then, or the rollout pauses."
        ),
    ] = "10m"
    bake: Bake = Bake()
    on_breach: Annotated[
        Literal["rollback", "pause"],
        Meta(description="What follows when something speaks against the canary: taken back, or wait for a person."),
    ] = "rollback"
    stickiness: Annotated[
        Literal["key", "random"],
        Meta(description="Whether a stickiness key keeps its version, or every request is drawn anew."),
    ] = "key"

    def __post_init__(self) -> None:
        if self.from_ == self.version:
            raise ValueError(f"from: '{self.from_}' is the canary itself")
        for index, message in step_faults(self.steps):
            raise ValueError(f"steps[{index}]: {message}")

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


def step_faults(steps: tuple[Step, ...]) -> Iterator[tuple[int, str]]:
    """What is wrong with the steps taken together, each with the index of the step."""
    before = 0
    for index, step in enumerate(steps):
        if step.set_weight is None:
            continue
        if step.set_weight <= before:
            yield index, f"setWeight {step.set_weight} isn't more than {before} before it; weights only go up"
        before = max(before, step.set_weight)
    if steps and steps[0].set_weight is None:
        yield 0, "the first step must be a setWeight: before it there is nothing to pause at"
    if before < 100:
        yield len(steps) - 1, "the last weight must be 100; end the steps with `- {setWeight: 100}`"
