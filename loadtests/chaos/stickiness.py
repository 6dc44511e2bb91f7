"""Whether a stickiness key stays with its version while a rollout's weights only grow. Pure.

A row doesn't have its key; which request had which one follows from the load and its seed.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from loadtests.users.asking import KEYS
from loadtests.users.load import Chance, Load, arrivals
from loadtests.users.rows import Outcome, Row

USER: Final = "sticky"
SETTLE_S: Final = 1.0
"""So long gateways may disagree on a weight: one has the new table, the other will have it in a moment."""


class Moved(NamedTuple):
    """Stickiness keys that met the canary, and how many answers of the prior version they got after that."""

    keys: int
    back: int


def keys_of(load: Load, chance: Chance, *, calm_s: float) -> dict[str, int]:
    """The keys of a load's sticky users, by when their requests are due as a row tells it."""
    return {
        _moment(arrival.due_s): arrival.number % KEYS
        for arrival in arrivals(load, chance, calm_s=calm_s)
        if arrival.user == USER
    }


def moved_back(rows: Sequence[Row], keys: Mapping[str, int], *, canary: str, prior: str) -> Moved:
    """Versions as `digits@v2`."""
    answers = sorted(
        (row for row in rows if row.user == USER and row.outcome is Outcome.OK), key=lambda row: row.sent_s
    )
    met: dict[int, float] = {}
    for row in answers:
        if row.version == canary:
            key = keys[_moment(row.due_s)]
            met[key] = min(row.done_s, met.get(key, row.done_s))
    back = sum(
        row.version == prior and row.sent_s > met.get(keys[_moment(row.due_s)], row.sent_s) + SETTLE_S
        for row in answers
    )
    return Moved(len(met), back)


def _moment(due_s: float) -> str:
    return f"{due_s:.5f}"
