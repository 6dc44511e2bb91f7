"""The settings of the systems under test, and the files of their rollouts. Pure.

Names as docs/settings.md and docs/rollouts.md have them. Steps, pauses and windows are short, so that a rollout is over
in half a minute; what is promised doesn't depend on them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from loadtests.resilience.answers import STATIC_OUTPUTS

MODEL: Final = "digits"
PRIOR: Final = "v1"
STEPS: Final = (5, 25, 50, 100)
SLOW_OBJECTIVE_MS: Final = 20
"""A good version is far quicker than that, also on a busy machine, and `slow-10x` is slower."""
TIMEOUT_MS: Final = 3000

Arguments = dict[str, Any]


def arguments(*, store: Path, event_log: str | None = None) -> Arguments:
    """The `args` of the application, without ports and folders."""
    digits = {
        "name": MODEL,
        "versions": [PRIOR],
        "stable": PRIOR,
        "replicas": 2,
        "timeout_ms": TIMEOUT_MS,
        "fallback": [{"type": "cache"}, {"type": "static", "outputs": dict(STATIC_OUTPUTS)}],
    }
    found: Arguments = {
        "store": str(store.resolve()),
        "faults": True,
        "gateway": {"replicas": 2},
        "models": [digits],
    }
    return found if event_log is None else {**found, "event_log": event_log}


def rollout_file(
    version: str,
    *,
    steps: Sequence[int] = STEPS,
    pauses: Mapping[int, str | None] | None = None,
    pause: str = "2s",
    bake: str = "8s",
    analysis: Mapping[str, Any] | None = None,
    stickiness: str = "key",
) -> str:
    """A rollout of this version over the prior one. `pauses` after single weights; None there waits for a person."""
    entries: list[dict[str, Any]] = []
    for weight in steps:
        entries.append({"setWeight": weight})
        lasts = (pauses or {}).get(weight, pause)
        entries.append({"pause": {} if lasts is None else {"duration": lasts}})
    judged: dict[str, Any] = {
        "alpha": 0.01,
        "minAttempts": 20,
        "slo": {
            "objective": 0.99,
            "burnRates": [{"long": "6s", "short": "2s", "factor": 10}],
            "minBadEvents": 10,
        },
        "metricsTimeout": "10s",
        **(analysis or {}),
    }
    document = {
        "model": MODEL,
        "version": version,
        "from": PRIOR,
        "steps": entries,
        "analysis": judged,
        "progressDeadline": "60s",
        "bake": {"duration": bake},
        "stickiness": stickiness,
    }
    return yaml.safe_dump(document, sort_keys=False)
