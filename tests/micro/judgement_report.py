"""Simulates all cases and writes docs/judgement.md and docs/judgement.svg: ``python -m tests.micro.judgement_report``.

It takes some minutes. Everything is seeded: the same code writes the same page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadtests.bench.report import NOTHING, number, table
from serving.rollout.file import parse_rollout
from serving.rollout.spec import RolloutSpec
from tests.micro.judgement import Floats, Phase, ThresholdRule, evidence_decides, rules_decide
from tests.micro.judgement_plot import Curve, Range, plot
from tests.micro.shipped import FINDINGS, Answers, budget_rule, shipped_decides

DOCS = Path(__file__).parents[2] / "docs"
RATE, MANY, SOME = 150, 10_000, 2_000
SOON = 20_000
"""Requests within which every canary is taken back that is bad enough."""
STEPS_FILE = "model: m\nversion: v2\nsteps: [{setWeight: 5}, {setWeight: 25}, {setWeight: 50}, {setWeight: 100}]\n"
SPEC = parse_rollout(STEPS_FILE)
"""A rollout file that says nothing of how it is judged."""
MIRRORED = parse_rollout(f"{STEPS_FILE}analysis: {{shadow: {{agreement: 0.95}}}}\n")
ALPHA = SPEC.analysis.alpha
RULES = (
    ThresholdRule(interval_s=60),
    ThresholdRule(interval_s=10),
    budget_rule(SPEC),
    budget_rule(SPEC, beside=True),
)
NAMES = ("as shipped", "evidence", "threshold, 60 s", "threshold, 10 s", "budget", "budget beside stable's")

ABOUT = f"""\
# How well a canary is judged

Simulated rollouts, and when each rule would have taken them back. Written by
`python -m tests.micro.judgement_report`; seeded, so the same code writes the same page. A short form is in the test
suite (`tests/simulation/test_judgement.py`) and fails if the bound is broken.

- **as shipped**: what takes a canary back, all findings together (`judged` in `serving/rollout/analysis.py`), as a
  rollout file has them that says nothing of it: alpha {ALPHA} for all, an objective of 99.9 % with 14.4 times the rate
  over 5 minutes and 30 seconds, 1 % invalid answers.
- **evidence**: `serving/rollout/evidence.py` alone, at alpha {ALPHA}, looked at after every event.
- **threshold**: as in Flagger: a success rate under 99 % in an interval is a failed check; five failed checks roll
  back. With an interval of 60 s, its default, and of 10 s.
- **budget**: the burn rate of the same rollout file without regard to chance (`burning` in
  `serving/rollout/burn_rate.py`). Alone, and beside stable's: then it says nothing while stable burns, too.

Where nothing else is said, there are {RATE} requests a second, and stable fails 0.5 % of its attempts.
"""

SHIPPED = """\
## Healthy canaries, all findings together

The canary is as bad as stable beside it. Share of the rollouts that are taken back, and by which finding. Evidence is
looked at after every event, the others after every second. Alpha, {alpha}, is for all of them together: two thirds are
the comparison's, a ninth each the budget's, validity's and agreement's, so the chance of any is at most their sum, at
whatever rate of errors. The last row has everything at its limit: 1.44 % bad, where the budget burns exactly 14.4 times
too fast, 1 % invalid, and 5 % of the mirrored answers differ where 5 % may.

"""

HEALTHY = """\
## Healthy canaries, rule by rule

The canary fails 0.5 %, too. Share of {rollouts} rollouts that are wrongly taken back. Evidence has a bound, alpha, for
rollouts of whatever length and traffic. A threshold has none: it depends on how many attempts of the canary an interval
has and how many intervals there are. With 450 in 60 s it does well. With 75, in 10 s or at a tenth of the traffic, one
bad attempt fails a check. So it wants an interval that suits the traffic, and the traffic changes. Nor has a burn rate
one: its windows begin empty, and then a few bad attempts are a high rate. The second table has it at other error rates.
The more both versions fail, the worse, up to where stable's burns as well and so excuses the canary's. That is why what
is shipped wants evidence, too.

Without chance, for every order in which 1 000 bad attempts can come, the test suite reckons for evidence alone 0.48 %
at a weight of 5 %, 0.73 % at 20 % and 0.79 % at 50 %.

"""

BAD = """\
## Bad canaries

Median of the requests to both versions until the canary is taken back, within 200 000. Rules that look at intervals or
seconds can't be quicker than these, whatever the canary does; evidence has no clock. What is quick about a threshold of
10 s above, it pays for with healthy canaries.

![Requests to decision, and false rollbacks over time](judgement.svg)

"""

BAKE = """\
## Canaries that go bad when they have all requests

At 100 % and in the bake there is nobody to compare with. There the budget takes a version back that burns it too fast
by more than chance explains. Healthy for 300 s with 0.5 % bad, then so bad for 600 s: the median of the seconds until
it is taken back, and of what the burn rate alone would need, which has no bound on false alarms.

"""

OUTAGE = """\
## Outages that hit both versions

Both fail 20 % for 60 000 requests (400 s). Share of {rollouts} rollouts that are taken back. Chance moves it by 0.2 in
a hundred either way; what evidence comes to exactly stands above. It only counts whose the bad attempts are, and so do
all findings together. A budget is blind to that unless stable's is laid beside it.

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
WHOLE = (Phase(60_000, 0.05, 0, 0), Phase(60_000, 0.25, 0, 0), Phase(60_000, 0.5, 0, 0), Phase(90_000, 1.0, 0, 0))
"""A rollout of 20 minutes, and 10 of bake."""


def alike(bad: float, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    return tuple(replace(phase, canary=bad, stable=bad) for phase in phases)


def slower(phases: tuple[Phase, ...], times: int) -> tuple[Phase, ...]:
    return tuple(replace(phase, requests=phase.requests // times) for phase in phases)


RATES = (0.001, 0.005, 0.007, 0.01)
SHIPPED_CASES = (
    *(Case(f"{100 * bad:g} %, at 5 %, 200 000 requests", alike(bad, (Phase(200_000, 0.05, 0),))) for bad in RATES),
    *(Case(f"{100 * bad:g} %, at 5, 25, 50, 100 % and in the bake", alike(bad, WHOLE)) for bad in RATES),
    *(
        Case(f"{100 * bad:g} %, the same at 15 requests a second", alike(bad, slower(WHOLE, 10)), rate=15)
        for bad in (0.005, 0.01)
    ),
    Case("20 %, at 5 %, 60 000 requests", alike(0.2, (Phase(60_000, 0.05, 0),))),
)
LIMITS = Case("all at its limit, with mirroring", alike(0.0144, WHOLE))
AT_LIMITS = Answers(invalid=0.01 / 0.0144, disagreeing=0.05)
BUDGET_CASES = tuple(
    Case(f"{100 * bad:g} % at 5 %, 200 000 requests", alike(bad, (Phase(200_000, 0.05, 0),))) for bad in RATES
)
BAKE_BAD = (0.03, 0.05, 0.1, 0.3, 1.0)
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


FAILING = Answers()


class Simulation:
    """Runs cases, each with a seed of its own."""

    def __init__(self, *, many: int, some: int) -> None:
        self.many, self.some = many, some
        self._seed = 0

    def all_rules(self, case: Case, *, rollouts: int) -> list[Floats]:
        shipped = self.shipped(case, rollouts=rollouts)["all"]
        evidence = evidence_decides(case.phases, rollouts=rollouts, alpha=ALPHA, seed=self._seed)
        others = rules_decide(case.phases, RULES, rollouts=rollouts, rate=case.rate, seed=self._seed)
        return [shipped, evidence, *others]

    def shipped(
        self, case: Case, *, rollouts: int, spec: RolloutSpec = SPEC, answers: Answers = FAILING
    ) -> dict[str, Floats]:
        self._seed += 1

        def found(phases: tuple[Phase, ...]) -> dict[str, Floats]:
            return shipped_decides(phases, spec, rollouts=rollouts, rate=case.rate, seed=self._seed, answers=answers)

        first = case.phases[0]
        if first.canary > 5 * first.stable:
            soon = found((replace(first, requests=SOON),))
            if np.isfinite(soon["all"]).all():  # what comes after it needn't be drawn
                return soon
        return found(case.phases)

    def budget(self, case: Case, *, rollouts: int, beside: bool) -> Floats:
        self._seed += 1
        rule = budget_rule(SPEC, beside=beside)
        [found] = rules_decide(case.phases, [rule], rollouts=rollouts, rate=case.rate, seed=self._seed)
        return found

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
    healthy = [simulation.all_rules(case, rollouts=simulation.some) for case in HEALTHY_CASES]
    bad = [simulation.all_rules(case, rollouts=simulation.some) for case in BAD_CASES]
    outages = [simulation.all_rules(case, rollouts=simulation.some) for case in OUTAGES]
    parts = [
        ABOUT,
        SHIPPED.format(alpha=ALPHA) + _shipped(simulation),
        HEALTHY.format(rollouts=number(simulation.some)) + _table(HEALTHY_CASES, healthy, share) + _budgets(simulation),
        BAD + _table(BAD_CASES, bad, median),
        OUTAGE.format(rollouts=number(simulation.some)) + _table(OUTAGES, outages, share),
        LATE + _late(simulation),
        BAKE + _bake(simulation),
        WRONG + table(("", "taken back"), [(case.name, share(simulation.evidence(case))) for case in WRONG_CASES]),
    ]
    return "\n".join(parts), _picture(healthy, bad)


def _table(cases: tuple[Case, ...], results: list[list[Floats]], told: Callable[[Floats], str]) -> str:
    rows = [(case.name, *(told(decided) for decided in result)) for case, result in zip(cases, results, strict=True)]
    return table(("", *NAMES), rows)


def _shipped(simulation: Simulation) -> str:
    rows = []
    for case in (*SHIPPED_CASES, LIMITS):
        rollouts = simulation.many if case.phases[0].stable == 0.005 and case.rate == RATE else simulation.some
        if case is LIMITS:
            found = simulation.shipped(case, rollouts=rollouts, spec=MIRRORED, answers=AT_LIMITS)
        else:
            found = simulation.shipped(case, rollouts=rollouts)
        rows.append((case.name, number(rollouts), *(share(found[what]) for what in ("all", *FINDINGS))))
    return table(("bad, both of them", "rollouts", "all together", *FINDINGS), rows)


def _budgets(simulation: Simulation) -> str:
    rows = [(case.name, share(simulation.budget(case, rollouts=simulation.some, beside=True))) for case in BUDGET_CASES]
    return "\n" + table(("", NAMES[-1]), rows)


def _bake(simulation: Simulation) -> str:
    rows = []
    for rate in (RATE, 15, 1):
        for bad in BAKE_BAD:
            well = 300 * rate
            case = Case(f"{100 * bad:g} %, {rate} a second", (Phase(well, 1.0, 0.005), Phase(2 * well, 1.0, bad)), rate)
            both = (
                simulation.shipped(case, rollouts=simulation.some)["all"],
                simulation.budget(case, rollouts=simulation.some, beside=False),
            )
            rows.append((case.name, *(median(after(decided, well) / rate, 300) for decided in both)))
    return table(("", NAMES[0], NAMES[4]), rows)


def _late(simulation: Simulation) -> str:
    rows = []
    for case in LATE_CASES:
        begin = sum(phase.requests for phase in case.phases[:-1])
        found = simulation.all_rules(case, rollouts=simulation.some)
        found.insert(2, simulation.evidence(case, afresh=True))
        rows.append((case.name, *(median(after(decided, begin), begin) for decided in found)))
    return table(("", *NAMES[:2], "evidence, afresh in each step", *NAMES[2:]), rows)


def _picture(healthy: list[list[Floats]], bad: list[list[Floats]]) -> str:
    shown = (0, 2, 3, 4)
    ranges = [
        [
            Range(case.name, *(float(x) for x in np.quantile(result[rule], (0.1, 0.5, 0.9), method="nearest")))
            for case, result in zip(BAD_CASES, bad, strict=True)
        ]
        for rule in shown
    ]
    curves = [
        Curve(f"{NAMES[rule]}{note}", shown.index(rule), np.sort(healthy[row][rule]), dashed)
        for row, note, dashed in ((0, "", False), (3, ", 15 requests/s", True))
        for rule in shown[:3]
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
