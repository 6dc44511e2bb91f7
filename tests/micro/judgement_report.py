"""Simulates all cases and writes docs/judgement.md and docs/judgement.svg: ``python -m tests.micro.judgement_report``.

It takes two or three minutes. Everything is seeded: the same code writes the same page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.bench.report import NOTHING, number, table
from serving.rollout.burn_rate import ROLLOUT_RULES, Budget
from tests.micro.judgement import (
    BudgetRule,
    Floats,
    Phase,
    ThresholdRule,
    evidence_decides,
    rules_decide,
)
from tests.micro.judgement_plot import Curve, Range, plot

DOCS = Path(__file__).parents[2] / "docs"
ALPHA, RATE, MANY, SOME = 0.01, 150, 10_000, 2_000
BUDGET = Budget(0.995)
RULES = (
    ThresholdRule(interval_s=60),
    ThresholdRule(interval_s=10),
    BudgetRule(BUDGET, ROLLOUT_RULES, min_bad=10),
    BudgetRule(BUDGET, ROLLOUT_RULES, min_bad=10, beside=True),
)
NAMES = ("evidence", "threshold, 60 s", "threshold, 10 s", "budget", "budget beside stable's")

ABOUT = f"""\
# How well a canary is judged

Simulated rollouts, and when each rule would have taken them back. Written by
`python -m tests.micro.judgement_report`; seeded, so the same code writes the same page. A short form is in the test
suite (`tests/simulation/test_judgement.py`) and fails if the bound is broken.

- **evidence**: `serving/rollout/evidence.py` at alpha {ALPHA}, looked at after every event.
- **threshold**: as in Flagger: a success rate under 99 % in an interval is a failed check; five failed checks roll
  back. With an interval of 60 s, its default, and of 10 s.
- **budget**: `serving/rollout/burn_rate.py` with an objective of 99.5 %, which a healthy version just meets; 14.4 times
  the rate over 60 s and 5 s, or 6 times over 360 s and 30 s, and 10 bad events at least. Alone, and beside stable's:
  then it says nothing while stable burns, too.

Where nothing else is said, there are {RATE} requests a second, and stable fails 0.5 % of its attempts.
"""

HEALTHY = """\
## Healthy canaries that are taken back

The canary fails 0.5 %, too. Share of {rollouts} rollouts that are wrongly taken back. Evidence has a bound, alpha, for
rollouts of whatever length and traffic. A threshold has none: it depends on how many attempts of the canary an interval
has and how many intervals there are. With 450 in 60 s it does well. With 75, in 10 s or at a tenth of the traffic, one
bad attempt fails a check. So it wants an interval that suits the traffic, and the traffic changes.

Without chance, for every order in which 1 000 bad attempts can come, the test suite reckons 0.48 % at a weight of 5 %,
0.73 % at 20 % and 0.79 % at 50 %.

"""

BAD = """\
## Bad canaries

Median of the requests to both versions until the canary is taken back, within 200 000. Rules that look at intervals or
seconds can't be quicker than these, whatever the canary does; evidence has no clock. What is quick about a threshold of
10 s above, it pays for with healthy canaries.

![Requests to decision, and false rollbacks over time](judgement.svg)

"""

OUTAGE = """\
## Outages that hit both versions

Both fail 20 % for 60 000 requests (400 s). Share of rollouts that are taken back. Evidence only counts whose the bad
attempts are. A budget is blind to that unless stable's is laid beside it.

"""

LATE = """\
## Canaries that go bad late

Healthy for 50 000 requests, then 30 % bad: median requests from there on. A long healthy time weighs against the bad
one. Evidence that is judged afresh in each step (alpha shared between the steps) forgets it with the step. The budget
never looks further back than its windows.

"""

WRONG = """\
## What breaks the bound

The same evidence, fed wrongly, with canaries that are no worse, at 5 %: share that is taken back. What has to be
counted, and how, stands at the top of `serving/rollout/evidence.py`.

"""


@dataclass(frozen=True)
class Case:
    name: str
    phases: tuple[Phase, ...]
    rate: int = RATE


def constant(requests: int, weight: float, canary: float, stable: float = 0.005) -> tuple[Phase, ...]:
    return (Phase(requests, weight, canary, stable),)


STEPS = (Phase(60_000, 0.05, 0.005), Phase(70_000, 0.25, 0.005), Phase(70_000, 0.5, 0.005))
HEALTHY_CASES = (
    Case("5 %, 200 000 requests", constant(200_000, 0.05, 0.005)),
    Case("20 %, 200 000 requests", constant(200_000, 0.2, 0.005)),
    Case("5, 25, 50 %, 200 000 requests", STEPS),
    Case("5 %, 40 000 requests, 15 a second", constant(40_000, 0.05, 0.005), rate=15),
)
BAD_CASES = tuple(
    Case(f"{100 * canary:g} % bad at {100 * weight:g} %", constant(200_000, weight, canary))
    for weight in (0.05, 0.2)
    for canary in (0.02, 0.05, 0.3, 1.0)
)
OUTAGES = tuple(Case(f"20 % and 20 % at {100 * w:g} %", constant(60_000, w, 0.2, 0.2)) for w in (0.05, 0.2))
LATE_CASES = (
    Case("at the step to 50 %", (*(Phase(25_000, w, 0.005) for w in (0.05, 0.25)), Phase(60_000, 0.5, 0.3))),
    Case("in the midst of 25 %", (Phase(25_000, 0.05, 0.005), Phase(25_000, 0.25, 0.005), Phase(60_000, 0.25, 0.3))),
)
WRONG_CASES = (
    Case("counted as it should be", constant(50_000, 0.05, 0.005)),
    Case("sticky keys, each bad one 20 times, requests counted", (Phase(50_000, 0.05, 0.005, cluster=20),)),
    Case("20 % outage, every attempt counted", constant(2_000, 0.05, 0.2, 0.2)),
    Case(
        "20 % outage, stable's breaker opens after 100 requests and its refusals aren't counted",
        (Phase(100, 0.05, 0.2, 0.2), Phase(2_000, 0.05, 0.2, 0.0)),
    ),
)


class Simulation:
    """Runs cases, each with a seed of its own."""

    def __init__(self, *, many: int, some: int) -> None:
        self.many, self.some = many, some
        self._seed = 0

    def all_rules(self, case: Case, *, rollouts: int) -> list[Floats]:
        self._seed += 1
        evidence = evidence_decides(case.phases, rollouts=self.many, alpha=ALPHA, seed=self._seed)
        return [evidence, *rules_decide(case.phases, RULES, rollouts=rollouts, rate=case.rate, seed=self._seed)]

    def evidence(self, case: Case, *, afresh: bool = False) -> Floats:
        self._seed += 1
        return evidence_decides(case.phases, rollouts=self.many, alpha=ALPHA, seed=self._seed, afresh=afresh)


def share(decided: Floats) -> str:
    return f"{100 * np.isfinite(decided).mean():.3g} %"


def median(decided: Floats, begin: float = 0) -> str:
    """The median, also when some are never decided; how many are, when it is fewer than half."""
    if not len(decided):
        return NOTHING
    middle = float(np.median(decided))
    return number(middle - begin) if np.isfinite(middle) else f"never ({share(decided)} are)"


def after(decided: Floats, begin: int) -> Floats:
    """Without what was wrongly decided before the canary went bad."""
    return decided[decided > begin]


def render(simulation: Simulation) -> tuple[str, str]:
    """The page and its picture."""
    healthy = [simulation.all_rules(case, rollouts=simulation.many) for case in HEALTHY_CASES]
    bad = [simulation.all_rules(case, rollouts=simulation.some) for case in BAD_CASES]
    outages = [simulation.all_rules(case, rollouts=simulation.some) for case in OUTAGES]
    parts = [
        ABOUT,
        HEALTHY.format(rollouts=number(simulation.many)) + _table(HEALTHY_CASES, healthy, share),
        BAD + _table(BAD_CASES, bad, median),
        OUTAGE + _table(OUTAGES, outages, share),
        LATE + _late(simulation),
        WRONG + table(("", "taken back"), [(case.name, share(simulation.evidence(case))) for case in WRONG_CASES]),
    ]
    return "\n".join(parts), _picture(healthy, bad)


def _table(cases: tuple[Case, ...], results: list[list[Floats]], told: Callable[[Floats], str]) -> str:
    rows = [(case.name, *(told(decided) for decided in result)) for case, result in zip(cases, results, strict=True)]
    return table(("", *NAMES), rows)


def _late(simulation: Simulation) -> str:
    rows = []
    for case in LATE_CASES:
        begin = sum(phase.requests for phase in case.phases[:-1])
        found = simulation.all_rules(case, rollouts=simulation.some)
        found.insert(1, simulation.evidence(case, afresh=True))
        rows.append((case.name, *(median(after(decided, begin), begin) for decided in found)))
    return table(("", NAMES[0], "evidence, afresh in each step", *NAMES[1:]), rows)


def _picture(healthy: list[list[Floats]], bad: list[list[Floats]]) -> str:
    shown = (0, 1, 2, 3)
    ranges = [
        [
            Range(case.name, *(float(x) for x in np.quantile(result[rule], (0.1, 0.5, 0.9), method="nearest")))
            for case, result in zip(BAD_CASES, bad, strict=True)
        ]
        for rule in shown
    ]
    curves = [
        Curve(f"{NAMES[rule]}{note}", rule, np.sort(healthy[row][rule]), dashed)
        for row, note, dashed in ((0, "", False), (3, ", 15 requests/s", True))
        for rule in (0, 1, 2)
    ]
    return plot([NAMES[rule] for rule in shown], ranges, curves, alpha=ALPHA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=MANY)
    parser.add_argument("--out", type=Path, default=DOCS)
    args = parser.parse_args()
    page, picture = render(Simulation(many=args.rollouts, some=min(SOME, args.rollouts)))
    (args.out / "judgement.md").write_text(page)
    (args.out / "judgement.svg").write_text(picture)
    print(page)


if __name__ == "__main__":
    main()
