"""Writes docs/scenarios.md from the scenarios: `python -m loadtests.chaos.doc` prints it, `make docs` writes it."""

import sys
from collections.abc import Sequence
from typing import Final

from loadtests.chaos import library
from loadtests.chaos.faults import name_of
from loadtests.chaos.matrix import LINES
from loadtests.chaos.spec import Flat, Must, Scenario

_HEAD: Final = """\
# Scenarios

Written by `make docs` from `loadtests/chaos/scenarios/`; change it there. [chaos.md](chaos.md) says how they are run.

Everywhere but where it stands otherwise: no client error, no request shed, no wrong answer unmarked.
"""
_MATRIX: Final = "\n## The fault matrix\n\n| Fault | Scenario | What must hold |\n|---|---|---|\n"
_ALL: Final = "\n## All scenarios\n\n| Scenario | Load | Faults | What it is |\n|---|---|---|---|\n"


def page(scenarios: Sequence[Scenario]) -> str:
    lines = [
        f"| {line} | `{scenario.name}` | {promised(scenario.must)} |\n"
        for line in LINES
        for scenario in scenarios
        if line in scenario.matrix
    ]
    rows = [f"| `{each.name}` | {_load(each)} | {_faults(each)} | {each.title}. {each.what} |\n" for each in scenarios]
    return _HEAD + _MATRIX + "".join(lines) + _ALL + "".join(rows)


def promised(must: Must) -> str:
    """In words, what isn't promised everywhere."""
    found = [*_counts(must), *_times(must), *_effects(must)]
    return "; ".join(found) or "nobody notices"


def _counts(must: Must) -> list[str]:
    found = []
    if must.errors == "in_flight":
        found.append("at most what was under way is lost")
    elif must.errors is None:
        found.append("errors are allowed")
    elif must.errors:
        found.append(f"at most {must.errors} errors")
    if must.wrong:
        found.append(f"at most {must.wrong} wrong answers")
    if must.shed_max is None:
        found.append("requests may be shed")
    elif must.shed_max:
        found.append(f"at most {must.shed_max * 100:g} % shed")
    if must.goodput_min is not None:
        found.append(f"goodput at least {must.goodput_min * 100:g} % of the peak")
    if must.degraded_max is not None:
        most = "none" if must.degraded_max == 0 else f"at most {must.degraded_max * 100:g} %"
        found.append(f"{most} degraded")
    if must.static_max is not None:
        most = "nobody gets" if must.static_max == 0 else f"at most {must.static_max * 100:g} % get"
        found.append(f"{most} the static answer")
    return found


def _times(must: Must) -> list[str]:
    times = (
        ("p99 at most", must.p99_max),
        ("shed within", must.shed_within),
        ("a replacement within", must.back_within),
        ("as in calm within", must.recover_within),
        ("rolled back within", must.rolled_back_within),
    )
    found = [f"{what} {_time(seconds)}" for what, seconds in times if seconds is not None]
    if must.p99_over_calm_max is not None:
        found.append(f"p99 at most {must.p99_over_calm_max:g} times calm's")
    return found


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _effects(must: Must) -> list[str]:
    found = []
    if must.breaker_opens:
        found.append("the breaker opens")
    if must.ejects:
        found.append("the bad replica is ejected")
    if must.failed_attempts_max is not None:
        found.append(f"at most {must.failed_attempts_max:g} attempts in vain")
    if must.sticky_moves_max is not None:
        found.append("sticky keys keep their version" if must.sticky_moves_max == 0 else "few sticky keys go back")
    if must.ends_as is not None:
        found.append(f"the rollout ends as {must.ends_as}")
    if must.memory_growth_max is not None:
        found.append(f"gateways grow by {must.memory_growth_max:g} MB at most")
    if must.cancelled_computed_max is not None:
        found.append(f"at most {must.cancelled_computed_max * 100:g} % of the cancelled are computed")
    if must.flat is not None:
        found.append(_flat(must.flat))
    return found


def _flat(must: Flat) -> str:
    return (
        f"no kind of process grows by more than {must.memory:g} MB or {must.memory_share * 100:g} %, {must.handles:g} "
        f"open files or {must.threads:g} threads, nor their number by more than {must.processes:g}"
    )


def _load(scenario: Scenario) -> str:
    load = scenario.load
    factor = f" x{load.factor:g}" if load.shape in ("spike", "overload") else ""
    return f"{load.shape}{factor}, {load.rate:g}/s, {load.seconds:g} s"


def _faults(scenario: Scenario) -> str:
    names = [name_of(fault) for fault in scenario.faults]
    if scenario.draw is not None:
        names.append(f"{len(scenario.draw.faults)} kinds, drawn")
    if scenario.rollout is not None:
        names.append(f"a rollout of {scenario.rollout.version}")
    return ", ".join(dict.fromkeys(names)) or "none"


if __name__ == "__main__":
    sys.stdout.write(page(library.everything()))
