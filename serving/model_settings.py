"""The settings of one model: its versions, how it is served, and what protects it.

Part of ``serving.settings``, which reads and checks them all. Every protection has a switch of its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"

HANG_TIMEOUT_MIN_MS = 5_000
"""Unless a setting says otherwise, nothing is taken for hung earlier."""

Positive = Annotated[int, Meta(ge=1)]
Megabytes = Annotated[int, Meta(ge=64, le=1 << 24)]
Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(gt=0, le=1)]
Tolerance = Annotated[float, Meta(ge=0, le=1e300)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=128)]


class AutoscalingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Replicas that come and go with the work: as many as bring the requests in flight to the target."""

    min_replicas: Annotated[int, Meta(ge=1, le=64, description="Never fewer.")] = 1
    max_replicas: Annotated[int, Meta(ge=1, le=64, description="Never more.")]
    target_inflight: Annotated[
        float, Meta(gt=0, le=1e6, description="Requests waiting or in flight that one replica shall have.")
    ] = 32.0
    upscale_delay_s: Annotated[
        Seconds, Meta(description="How long more replicas must have been wanted before they are started.")
    ] = 3.0
    downscale_delay_s: Annotated[
        Seconds, Meta(description="How long fewer replicas must have been wanted before some are ended.")
    ] = 60.0

    def __post_init__(self) -> None:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas: {self.min_replicas} is above max_replicas {self.max_replicas}")


class AdmissionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many requests a gateway lets in at once, and which it sheds."""

    enabled: Annotated[bool, Meta(description="Whether requests are shed at all.")] = True
    limit_min: Annotated[Positive, Meta(description="Requests that are always let in at once.")] = 16
    limit_max: Annotated[Positive, Meta(description="Requests that are let in at once at most.")] = 2048
    max_wait_ms: Annotated[
        Milliseconds,
        Meta(
            description="A request that would wait longer than this for its turn is shed at once; one of normal "
            "priority if it would wait longer than 75 % of it, one of low priority than 50 %."
        ),
    ] = 500

    def __post_init__(self) -> None:
        if self.limit_min > self.limit_max:
            raise ValueError(f"limit_min: {self.limit_min} is above limit_max {self.limit_max}")


class BreakerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The circuit breaker of each version in each gateway."""

    enabled: Annotated[bool, Meta(description="Whether it ever opens.")] = True
    window_s: Annotated[Seconds, Meta(description="It looks at the calls of this long.")] = 10.0
    min_calls: Annotated[
        Positive,
        Meta(description="Calls in the window before it judges; as many failures in a row open it in any case."),
    ] = 20
    failure_rate: Annotated[Share, Meta(description="Share of failed calls at which it opens.")] = 0.5
    slow_call_ms: Annotated[
        Milliseconds | None, Meta(description="A call that takes longer is slow. Left out: none is.")
    ] = None
    slow_call_rate: Annotated[Share, Meta(description="Share of slow calls at which it opens.")] = 0.8
    open_s: Annotated[Seconds, Meta(description="How long it stays open the first time; doubles each time.")] = 1.0
    open_max_s: Annotated[Seconds, Meta(description="How long it stays open at most.")] = 30.0
    probes: Annotated[
        int, Meta(ge=1, le=1000, description="Calls that it lets through half-open; if all are good it closes.")
    ] = 3


class EjectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Outlier ejection: a replica that does worse than its siblings gets no requests for a while."""

    enabled: Annotated[bool, Meta(description="Whether replicas are ejected at all.")] = True
    window_s: Annotated[Seconds, Meta(description="It looks at the calls of this long.")] = 10.0
    min_calls: Annotated[Positive, Meta(description="Calls of a replica in the window before it is judged.")] = 10
    bad_share: Annotated[
        Share, Meta(description="Share of bad calls from which on a replica may be ejected, if its siblings do better.")
    ] = 0.2
    slow_factor: Annotated[
        float, Meta(gt=1, le=1000, description="It is ejected if it is this many times slower than its siblings.")
    ] = 4.0
    interval_s: Annotated[Seconds, Meta(description="How long the first time; longer each further time.")] = 2.0
    interval_max_s: Annotated[Seconds, Meta(description="How long at most.")] = 60.0
    max_share: Annotated[Share, Meta(description="Share of the replicas that may be ejected at once.")] = 0.5
    replace_after_s: Annotated[
        Seconds, Meta(description="A replica that every gateway has had ejected for this long is ended and replaced.")
    ] = 10.0


class RetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Further attempts at the same version, on another replica where there is one."""

    enabled: Annotated[bool, Meta(description="Whether there are any.")] = True
    attempts: Annotated[int, Meta(ge=1, le=10, description="Attempts in all, the first one included.")] = 3
    attempt_timeout_ms: Annotated[
        Milliseconds | None,
        Meta(description="How long one attempt may take if there is time for another. Left out: half the time left."),
    ] = None
    budget_ratio: Annotated[
        float, Meta(ge=0, le=10, description="Further attempts that every good answer pays for.")
    ] = 0.2
    budget_max: Annotated[Positive, Meta(description="Further attempts that can be saved up.")] = 100
    hedge: Annotated[
        bool,
        Meta(
            description="Whether a request that takes longer than 95 % of the version's others is sent to a second "
            "replica too, out of the same budget. The first good answer counts."
        ),
    ] = False


class UsePriorVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="version"):
    """Another version of the same model, which stays deployed and warm."""

    version: Annotated[Name, Meta(description="The version. It must be one of the model's `versions`.")]


class UseModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="model"):
    """Another model that takes the same inputs, such as a smaller one."""

    model: Annotated[Name, Meta(description="The model. It must be one of `models`.")]


class UseCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cache"):
    """What the model answered to the same inputs before, if its manifest calls it deterministic."""

    max_stale_s: Annotated[float, Meta(gt=0, le=31_536_000, description="Never an answer older than this.")] = 86_400.0


class UseStatic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="static"):
    """The same answer to everything."""

    outputs: Annotated[
        dict[str, list[bool | int | float | str]],
        Meta(description="For every output the elements of one row, flat and in row-major order."),
    ]


Fallback = UsePriorVersion | UseModel | UseCache | UseStatic


class ShadowSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A version that is asked what the model was asked, after the model's answer has left; answers are compared."""

    model: Annotated[
        Name | None, Meta(description="Another model, in its stable version. Either this or `version` is required.")
    ] = None
    version: Annotated[Name | None, Meta(description="Another one of the model's `versions`.")] = None
    share: Annotated[Share, Meta(description="Share of the model's good answers that it is asked for, too.")] = 0.1
    timeout_ms: Annotated[
        Milliseconds, Meta(description="How long it may take. A slow one has fewer requests mirrored.")
    ] = 1_000
    concurrency: Annotated[
        int, Meta(ge=1, le=1024, description="Mirrored requests that each gateway has it work on at once.")
    ] = 8
    queue_max: Annotated[
        Positive, Meta(description="Mirrored requests that wait in each gateway; more are dropped.")
    ] = 256
    queue_max_bytes: Annotated[
        Positive, Meta(description="Memory that mirrored requests hold in each gateway; more are dropped.")
    ] = 8 << 20
    silent_after_s: Annotated[
        Seconds,
        Meta(
            description="If in this time ten requests or more should have been mirrored and the shadow answered none, "
            "that is an alarm."
        ),
    ] = 30.0
    compare: Annotated[
        Literal["manifest", "label", "tolerance", "distance"],
        Meta(
            description="When two answers agree: `label`, the same labels; `tolerance`, floats that are near enough; "
            "`distance`, probabilities whose distance is small enough; `manifest`, `label` if the manifest of the "
            "model's version has labels, else `tolerance`."
        ),
    ] = "manifest"
    absolute_tolerance: Annotated[
        Tolerance | None, Meta(description="For `tolerance`. Left out: that of the golden examples.")
    ] = None
    relative_tolerance: Annotated[
        Tolerance | None, Meta(description="For `tolerance`. Left out: that of the golden examples.")
    ] = None
    distance: Annotated[
        Literal["total_variation", "jensen_shannon"],
        Meta(description="For `distance`: the measure, from 0 (the same) to 1 (nothing in common)."),
    ] = "total_variation"
    distance_max: Annotated[float, Meta(ge=0, le=1, description="For `distance`: how far apart they may be.")] = 0.1

    def __post_init__(self) -> None:
        if (self.model is None) == (self.version is None):
            raise ValueError("exactly one of model and version says who the shadow is")


class InputQualitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What becomes of a request with a value that its version's manifest doesn't expect; most say nothing of values."""

    mode: Annotated[
        Literal["off", "count", "reject"],
        Meta(
            description="`off`: nobody looks. `count`: it is counted by feature, kept as an incident, and answered. "
            "`reject`: it is counted, kept, and refused with 422 and the name of the feature."
        ),
    ] = "count"


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model: its versions and how it is served."""

    name: Annotated[Name, Meta(description="The model's name, as in `/v2/models/{name}`.")]
    versions: Annotated[
        tuple[Name, ...],
        Meta(
            min_length=1,
            description="Versions that are deployed at start; the registry must have them. The stable one "
            "isn't, if a rollout has put another one in its place, nor is one that was rolled back.",
        ),
    ]
    stable: Annotated[
        Name | None,
        Meta(
            description="The version that answers requests which don't name one. Left out: the last of `versions`. "
            "The outcome of the model's last rollout counts for more, unless that rollout knew nothing of this version."
        ),
    ] = None
    replicas: Annotated[
        int, Meta(ge=1, le=64, description="Replicas of each version; with `autoscaling` those at the start.")
    ] = 1
    autoscaling: AutoscalingSettings | None = None
    max_replicas_per_node: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        Meta(
            description="At most so many replicas of a version are on one node; those that find no place wait for "
            "another node to join. 1 with two replicas: the loss of a node leaves one. Left out: Ray Serve spreads "
            "them, but any number may be on one node.",
        ),
    ] = None
    threads: Annotated[int, Meta(ge=1, le=256, description="Threads that one run of the model may use.")] = 1
    num_cpus: Annotated[float, Meta(ge=0, le=256, description="CPUs that Ray reserves for each replica (0: none).")] = (
        0.0
    )
    timeout_ms: Annotated[Milliseconds, Meta(description="Deadline of a request that doesn't bring its own.")] = 10_000
    hang_timeout_ms: Annotated[
        Milliseconds | None,
        Meta(
            description="A replica whose loop, or whose model in one run, takes longer than this is replaced, whatever "
            "time its requests have. Left out: `retry.attempt_timeout_ms` or half of `timeout_ms` (all of it without "
            "`retry`), and at least 5000."
        ),
    ] = None
    max_memory_mb: Annotated[
        Megabytes | None,
        Meta(
            description="A replica that holds more memory of its own than this is replaced, after it has finished what "
            "it has; its siblings go on. Each has a limit of its own, from 80 to 100 % of this, so that replicas that "
            "leak alike don't go at once. Left out: nobody looks.",
        ),
    ] = None
    max_batch_rows: Annotated[
        int, Meta(ge=1, le=65_536, description="Rows that requests may fill together in one batch.")
    ] = 64
    max_batch_bytes: Annotated[
        Positive, Meta(description="Input bytes that requests may fill together in one batch.")
    ] = 8 << 20
    inflight_batches: Annotated[
        int, Meta(ge=1, le=64, description="Batches that each gateway has in flight to each replica.")
    ] = 1
    max_waiting: Annotated[
        Positive,
        Meta(
            description="Requests that wait in each gateway for a version. More are refused; those of normal priority "
            "from 75 % of it on, those of low priority from 50 % on."
        ),
    ] = 4096
    cache_fresh_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400_000,
            description="A cached answer younger than this is given without asking the model (0: never). Only "
            "deterministic versions are cached. With more than 1 MiB of inputs the model is always asked.",
        ),
    ] = 0
    admission: AdmissionSettings = AdmissionSettings()
    breaker: BreakerSettings = BreakerSettings()
    ejection: EjectionSettings = EjectionSettings()
    retry: RetrySettings = RetrySettings()
    fallback: Annotated[
        tuple[Fallback, ...],
        Meta(description="What answers when the model can't, tried in this order; `type` says what an entry is."),
    ] = ()

    shadow: ShadowSettings | None = None
    input_quality: InputQualitySettings = InputQualitySettings()
    sensitive: Annotated[
        bool, Meta(description="Whether what callers ask of it is private: nothing of it is kept as an incident.")
    ] = False
    redact: Annotated[
        tuple[str, ...],
        Meta(description="Inputs and outputs, by name, whose values aren't kept with an incident."),
    ] = ()

    def __post_init__(self) -> None:
        if self.stable is not None and self.stable not in self.versions:
            raise ValueError(f"stable: '{self.stable}' isn't one of versions {list(self.versions)}")
        if len(set(self.versions)) != len(self.versions):
            raise ValueError(f"versions: {list(self.versions)} names a version twice")
        for index, fallback in enumerate(self.fallback):
            if isinstance(fallback, UsePriorVersion):
                if fallback.version not in self.versions:
                    raise ValueError(
                        f"fallback[{index}].version: '{fallback.version}' isn't one of versions {list(self.versions)}"
                    )
                if fallback.version == self.stable_version:
                    raise ValueError(f"fallback[{index}].version: '{fallback.version}' is the stable version itself")
            if fallback in self.fallback[:index]:
                raise ValueError(f"fallback[{index}]: stands there twice")
        if self.shadow is not None and (version := self.shadow.version) is not None:
            if version not in self.versions:
                raise ValueError(f"shadow.version: '{version}' isn't one of versions {list(self.versions)}")
            if version == self.stable_version:
                raise ValueError(f"shadow.version: '{version}' is the stable version itself")

    @property
    def stable_version(self) -> str:
        return self.stable or self.versions[-1]

    @property
    def hang_after_ms(self) -> float:
        """How long a run that isn't hung may take: what the setting says, or the time of one attempt of several."""
        if self.hang_timeout_ms is not None:
            return self.hang_timeout_ms
        several = self.retry.enabled and self.retry.attempts > 1
        attempt_ms = self.retry.attempt_timeout_ms or self.timeout_ms / 2
        return max(HANG_TIMEOUT_MIN_MS, min(attempt_ms, self.timeout_ms) if several else self.timeout_ms)

    @property
    def caches(self) -> bool:
        """Whether good answers are kept."""
        return self.cache_fresh_ms > 0 or any(isinstance(fallback, UseCache) for fallback in self.fallback)
