"""What can be switched off, and which scenario must fail then, by which of its promises. Pure.

A check that can't fail says nothing. Not here: playing them (`broken.py`), and the settings of most (`setups.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from loadtests.chaos.faults import AnyFault
from loadtests.chaos.spec import Rollout, Scenario
from loadtests.resilience import setups
from loadtests.resilience.setups import Arguments

_NEVER: Final = 1_000_000
_NO_ANALYSIS: Final[Mapping[str, Any]] = {
    "alpha": 1e-250,
    "slo": {
        "objective": 0.99,
        "burnRates": [{"long": "6s", "short": "2s", "factor": 90}],
        "minBadEvents": _NEVER,
    },
}
"""Evidence that is never enough."""


class Protection(NamedTuple):
    """`scenario` must break one of the promises that have `about` in them. It is meant for that one."""

    what: str
    scenario: str
    about: tuple[str, ...]
    change: Callable[[Rollout], Rollout] | None = None
    """How it is taken away, if it is a matter of the rollout; else of the settings (`setups.py`)."""


def _replaced(**more: Any) -> Callable[[Rollout], Rollout]:
    return lambda rollout: msgspec.structs.replace(rollout, **more)


PROTECTIONS: Final[Mapping[str, Protection]] = {
    "retry": Protection("another replica is asked", "one_of_three_bad", ("client errors",)),
    "breaker": Protection("a version that fails is spared", "primary_failing", ("in vain", "breaker opens")),
    "ejection": Protection("a replica that fails is left out", "one_of_three_bad", ("is ejected", "degraded")),
    "admission": Protection("too much is refused at once", "overload", ("goodput", "shed")),
    "fallback": Protection("something else answers", "all_primary_killed", ("client errors",)),
    "resend": Protection("HAProxy asks another gateway", "gateway_killed", ("client errors",)),
    "cache": Protection("a cached prediction answers", "everything_fails", ("static answer",)),
    "analysis": Protection(
        "a bad canary is taken back",
        "canary_fails",
        ("ends as RolledBack", "rolled back within"),
        _replaced(analysis=dict(_NO_ANALYSIS)),
    ),
    "stickiness": Protection(
        "a key keeps its version", "canary_good_among_faults", ("sticky keys",), _replaced(stickiness="random")
    ),
    "rightness": Protection(
        "a version's answers are right", "canary_good_among_faults", ("wrong answers",), _replaced(version="mixes-up")
    ),
}
"""By the name that `--without` takes."""


def scenario_without(name: str | None, scenario: Scenario) -> Scenario:
    """The scenario as it is without this protection, if that is a matter of its rollout."""
    change = None if name is None else PROTECTIONS[name].change
    if change is None or scenario.rollout is None:
        return scenario
    old, new = scenario.rollout, change(scenario.rollout)
    faults = [_aimed(fault, old.version, new.version) for fault in scenario.faults]
    return msgspec.structs.replace(scenario, rollout=new, faults=faults)


def _aimed(fault: AnyFault, old: str, new: str) -> AnyFault:
    """The same at the new version, if it was meant for the old one."""
    target = getattr(fault, "target", None)
    if target is None or target.version != old:
        return fault
    return msgspec.structs.replace(fault, target=msgspec.structs.replace(target, version=new))


def settings_without(name: str | None, settings: Arguments) -> Arguments:
    """The settings without it, if it is a matter of those."""
    return settings if name is None or PROTECTIONS[name].change else setups.without(name, settings)
