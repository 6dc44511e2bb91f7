"""The fault matrix: every line of it has a scenario that shows it. Pure.

A scenario names its lines under `matrix`. Not here: what must hold; the scenarios say that.
"""

from typing import Final, Literal, get_args

Matrix = Literal[
    "replica killed every 5 s",
    "channel cut",
    "channel stalled",
    "channel garbled",
    "all primary replicas killed",
    "everything fails",
    "replica wedged",
    "one replica of three bad",
    "gateway killed",
    "HAProxy killed",
    "rollout controller killed",
    "Serve controller killed",
    "primary slow 10x",
    "NaN",
    "wrong shape",
    "poison requests among good ones",
    "corrupt artifact on load",
    "Redis gone",
    "Redis slow",
    "event-log disk full",
    "PostgreSQL gone",
    "3x overload",
    "500 slow clients",
    "half-open connections",
    "client flood",
    "cancelling clients",
    "bad canary: fails",
    "bad canary: NaN",
    "bad canary: slow",
    "bad canary: golden examples",
    "bad canary: crashes",
    "bad canary: goes bad late",
    "good canary among faults",
    "SIGTERM drain of a gateway",
    "rolling restart of the gateways",
    "whole process restart",
    "node killed",
    "memory leak",
    "random faults",
    "soak",
]

LINES: Final[tuple[Matrix, ...]] = get_args(Matrix)
