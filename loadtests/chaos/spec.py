"""A scenario: the system, the load on it, what is done to it, and what must hold. And the reading of its file. Pure.

Unknown keys are refused, with the line where the file has them.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from msgspec import Meta

from loadtests.chaos.durations import Seconds, decode
from loadtests.chaos.faults import NAMES, AnyFault, KillNode, Share
from loadtests.chaos.matrix import Matrix
from loadtests.users.load import Load

_PATH: Final = re.compile(r" - at `\$?([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_NAMED: Final = re.compile(r"`([a-z_.\[\]0-9]+)`")
_UNKNOWN: Final = re.compile(r"unknown field `([^`]+)`")

BAD_VERSIONS: Final = ("fails-30", "slow-10x", "nan-50", "golden-fails", "crashes", "late", "mixes-up")


class ScenarioError(Exception):
    """The file isn't a scenario; the text is one line and says where and why."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class System(Strict, frozen=True, kw_only=True):
    """The system under test. `settings` are the application's own (docs/settings.md), put over ours."""

    replicas: Annotated[int, Meta(ge=1, le=4)] = 2
    """Of digits' stable version."""
    nodes: Annotated[int, Meta(ge=1, le=3)] = 1
    """More than one: a Ray cluster, each node with a replica of every version."""
    gateways: Annotated[int, Meta(ge=1, le=4)] = 2
    stable: Literal["v1", "v2"] = "v2"
    fallback: bool = True
    """Whether another version, another model, the cache and a static answer stand behind digits."""
    redis: bool = False
    postgres: bool = False
    busy: Seconds = Seconds(0)
    """So long a run of digits' stable version is made to take, so that faults meet requests under way."""
    busy_per_row: Seconds = Seconds(0)
    """The same for each row of a run: so much work can't be shared, and there is a most that the system can do."""
    timeout: Seconds = Seconds(3)
    settings: dict[str, Any] = {}
    digits: dict[str, Any] = {}
    """Put over the settings of the model digits."""


class Rollout(Strict, frozen=True, kw_only=True):
    """A rollout of another version of digits, while the load runs. `analysis` is put over the usual file's own."""

    version: Literal["v2", "fails-30", "slow-10x", "nan-50", "golden-fails", "crashes", "late", "mixes-up"]
    at: Seconds
    steps: tuple[Annotated[int, Meta(ge=1, le=100)], ...] = (5, 25, 50, 100)
    pause: str = "2s"
    bake: str = "4s"
    stickiness: Literal["key", "random"] = "key"
    analysis: dict[str, Any] = {}


class Draw(Strict, frozen=True, kw_only=True):
    """Faults that the seed chooses: one of `faults` at `at`, and again `every` so often up to `until`."""

    faults: Annotated[list[AnyFault], Meta(min_length=1)]
    at: Seconds
    every: Seconds
    until: Seconds


class Flat(Strict, frozen=True, kw_only=True):
    """How much a process of any one kind may grow in its life, after its warm-up; `processes` is for all together."""

    memory: Annotated[float, Meta(ge=0)] = 20
    """MB of its own."""
    memory_share: Share = 0.1
    """Of what it holds, if that is more."""
    handles: Annotated[float, Meta(ge=0)] = 20
    handles_most: dict[str, Annotated[int, Meta(ge=0)]] = {}
    """Kinds of processes that close the oldest of their files when they have too many, and how many they may have: they
    are judged by that and not by growth."""
    threads: Annotated[float, Meta(ge=0)] = 4
    processes: Annotated[float, Meta(ge=0)] = 1
    warm_up: Seconds = Seconds(60)
    """Of each process; a fifth of a run that is shorter than five times that."""


class Must(Strict, frozen=True, kw_only=True):
    """What must hold. `errors` and `wrong` are counts; None takes a promise away."""

    errors: Annotated[int, Meta(ge=0)] | Literal["in_flight"] | None = 0
    """`in_flight`: at most the requests that were under way when the fault came."""
    wrong: Annotated[int, Meta(ge=0)] = 0
    shed_max: Share | None = 0.0
    shed_min: Annotated[int, Meta(ge=0)] = 0
    shed_within: Seconds | None = None
    """p99 of the answers that say no, from when they were sent."""
    degraded_max: Share | None = None
    degraded_min: Annotated[int, Meta(ge=0)] = 0
    """Fewer mean that the fault didn't do what it should."""
    static_max: Share | None = None
    """Share of all answers that may be the static one: the last of what stands behind a model."""
    p99_max: Seconds | None = None
    """Of the good answers from the first fault on."""
    p99_over_calm_max: Annotated[float, Meta(ge=1)] | None = None
    """The same as a multiple of calm's, which counts as at least 25 ms."""
    recover_within: Seconds | None = None
    """From each fault until all answers are good, fresh and quick again."""
    back_within: Seconds | None = None
    """From a process's death until its replacement serves."""
    goodput_min: Share | None = None
    """Good answers as a share of what the system could do at most (shape `overload`)."""
    met_by: list[str] = []
    """Outcomes of attempts, any of which must have been counted; else the fault met nobody."""
    failed_attempts_max: Annotated[int, Meta(ge=0)] | None = None
    """At the stable version: a breaker that is open spares it, and those who would wait for it."""
    breaker_opens: bool = False
    ejects: bool = False
    rolled_back_within: Seconds | None = None
    """From the evidence to the last gateway."""
    ends_as: Literal["Succeeded", "RolledBack", "Aborted"] | None = None
    sticky_moves_max: Annotated[int, Meta(ge=0)] | None = None
    """Answers of the prior version to stickiness keys that have met the canary; while weights grow there are none."""
    memory_growth_max: Annotated[float, Meta(ge=0)] | None = None
    """MB that the gateways grow by at most, all together, after the first quarter."""
    flat: Flat | None = None
    """Memory, open files, threads and the number of processes don't grow."""
    cancelled_computed_max: Share | None = None
    """Of the requests that were cancelled, the share that the model computed all the same."""


class Scenario(Strict, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]
    title: Annotated[str, Meta(min_length=1, max_length=100)]
    what: str
    load: Load
    system: System = System()
    calm: Seconds = Seconds(5)
    faults: list[AnyFault] = []
    draw: Draw | None = None
    rollout: Rollout | None = None
    must: Must = Must()
    matrix: list[Matrix] = []
    """The lines of the fault matrix that it shows."""
    alone: bool = False
    """Played only if it is asked for by name."""

    def __post_init__(self) -> None:
        """What the types can't say. The texts name the key."""
        if not 1 <= self.calm < self.load.seconds:
            raise ValueError("`calm` must be 1s at least, and end before the load does")
        for number, fault in enumerate(self.faults):
            if not self.calm <= fault.at < self.load.seconds:
                raise ValueError(f"`faults[{number}].at` must be after calm and before the load's end")
        if self.draw is not None and not (self.calm <= self.draw.at and self.draw.every > 0):
            raise ValueError("`draw.at` must be after calm, and `draw.every` more than nothing")
        if self.rollout is not None and (self.rollout.at < self.calm or self.system.stable != "v1"):
            raise ValueError("`rollout.at` must be after calm, and a rollout needs `system.stable: v1`")
        if (self.must.goodput_min is not None) != (self.load.shape == "overload"):
            raise ValueError("`must.goodput_min` and the shape `overload` belong together")
        if self.must.sticky_moves_max is not None and (self.rollout is None or self.must.ends_as != "Succeeded"):
            raise ValueError("`must.sticky_moves_max` needs a rollout with `ends_as: Succeeded`: else keys do go back")
        self._has_what_faults_need()

    def _has_what_faults_need(self) -> None:
        if self.rollout is None and any(fault.phase is not None for fault in self.faults):
            raise ValueError("a fault's `phase` needs a rollout")
        needs = {"redis_kill": "redis", "redis_slow": "redis", "postgres_stop": "postgres"}
        drawn = self.draw.faults if self.draw is not None else []
        for fault in [*self.faults, *drawn]:
            need = needs.get(str(fault.__struct_config__.tag))
            if isinstance(fault, KillNode) and self.system.nodes == 1:
                raise ValueError("`kill_node` needs `system.nodes: 2`")
            if need is not None and not getattr(self.system, need):
                raise ValueError(f"`{fault.__struct_config__.tag}` needs `system.{need}: true`")


def lasting(scenario: Scenario, seconds: float) -> Scenario:
    """The same scenario in another length: drawn faults end as long before its end. Raises `ScenarioError`.

    Faults that stand in the file keep their moments, so a scenario can't be shorter than they need.
    """
    document = msgspec.to_builtins(scenario, enc_hook=float)
    document["load"]["seconds"] = seconds
    if scenario.draw is not None:
        document["draw"]["until"] = max(0.0, seconds - (scenario.load.seconds - scenario.draw.until))
    try:
        return msgspec.convert(document, Scenario, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{scenario.name} can't last {seconds:g} s: {error}") from None


def parse(text: str, where: str) -> Scenario:
    """The scenario of a file. Raises `ScenarioError` that begins with `where` and the line."""
    try:
        document = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise ScenarioError(f"{where}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
    try:
        return msgspec.convert(document, Scenario, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise ScenarioError(_located(str(error), tree, where)) from None


def _located(message: str, tree: yaml.Node | None, where: str) -> str:
    """The words of msgspec with the line instead of only the path, and with the faults that there are."""
    found = _PATH.search(message)
    path = found[1] if found else ""
    text = message[: found.start()] if found else message
    unknown = _UNKNOWN.search(text)
    named = _NAMED.search(text)
    line = _line(tree, path or (f".{named[1]}" if named else ""), unknown[1] if unknown else None)
    if unknown:
        text = f"unknown key `{unknown[1]}`"
    elif path.endswith(".fault") and "Invalid value" in text:
        text = text.replace("Invalid value", "unknown fault") + "; there are " + ", ".join(NAMES)
    place = f" at `{path.lstrip('.')}`" if path else ""
    return f"{where}:{line}: {text}{place}"


def _line(tree: yaml.Node | None, path: str, unknown: str | None) -> int:
    """The line of the deepest thing on the path that the file has."""
    node, line = tree, 1 if tree is None else tree.start_mark.line + 1
    steps = [match[1] or match[2] for match in _STEP.finditer(path)]
    for step in [*steps, *([unknown] if unknown else [])]:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == step), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
        else:
            break
    return line
