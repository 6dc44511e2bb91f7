"""What was promised, whether it held, and what was seen. Pure.

Not here: the promises (`spec.Must`), and the gathering of what was seen (`run.py`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from loadtests.chaos import stickiness
from loadtests.chaos.census import Counted
from loadtests.chaos.faults import Fault
from loadtests.chaos.flatness import flatness
from loadtests.chaos.spec import Must, Scenario
from loadtests.chaos.verdict import Verdict
from loadtests.resilience.figures import Kind, Sample, percentile, recovery
from loadtests.resilience.table import duration
from loadtests.users.rows import Outcome, Row

ORDINARY: Final = frozenset({"json", "binary", "mixed", "sticky", "bursts"})
"""Users whose answers are as quick as the system is; the others' are as slow as they themselves."""
CALM_LEAST_S: Final = 0.025
CALM_P99_MAX_S: Final = 1.0
CALM_SHARE: Final = 0.9
FAST_LEAST_S: Final = 0.1
SETTLE_S: Final = 2.0
"""In overload the limit needs a moment to find out what it is up against."""
STRIKE_S: Final = 0.01
"""From when a fault is begun until it has struck."""
EDGE_S: Final = 0.5
"""Around the time in which nobody can answer: connections come and go."""
MEMORY: Final = "gateway_memory"
STATIC: Final = "static"
_NO_FAILURES: Final = frozenset({"ok", "cancelled", "circuit_open"})
"""Of what is counted as an attempt's end: one that the breaker has spared the version wasn't made."""


class Performed(NamedTuple):
    """A fault that was really done. `back_s`: how long after it a replacement served."""

    at_s: float
    until_s: float | None
    fault: Fault
    name: str
    target: str
    detail: str
    back_s: float | None = None
    excused: bool = False


@dataclass
class Seen:
    """All that a run saw beside the rows."""

    performed: Sequence[Performed] = ()
    promises: Sequence[tuple[bool, str]] = ()
    """What faults looked after themselves."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts at the stable version by outcome."""
    breakers: Sequence[tuple[float, float]] = ()
    ejected: bool = False
    memory: Sequence[tuple[float, float]] = ()
    counted: Sequence[Counted] = ()
    """Its processes, again and again."""
    peak: float | None = None
    """Good answers a second that the system can give at most."""
    computed: int | None = None
    """Rows that models have computed."""
    keys: Mapping[str, int] = field(default_factory=dict)
    """The stickiness keys of users who have one (`stickiness.keys_of`)."""
    rollback_s: float | None = None
    ended_as: str | None = None
    reason: str = ""
    troubles: Sequence[str] = ()
    """Faults that couldn't be done, and what else went wrong with the run."""


class Case(NamedTuple):
    """What is judged."""

    scenario: Scenario
    rows: Sequence[Row]
    seen: Seen


def steady_state(rows: Sequence[Row], calm_s: float, expected: int) -> Verdict:
    """The hypothesis: before anything is done, everything is well. Else what comes after says nothing."""
    calm = [row for row in rows if row.due_s < calm_s]
    bad = Counter(str(row.outcome) for row in calm if row.outcome not in (Outcome.OK, Outcome.CANCELLED))
    p99 = percentile((row.took_s for row in calm if row.user in ORDINARY), 0.99)
    late = p99 > CALM_P99_MAX_S
    held = len(calm) >= CALM_SHARE * expected and not bad and not late
    said = ", ".join(f"{count} {what}" for what, count in sorted(bad.items())) or "all good"
    return Verdict(
        "steady state first", held, f"{len(calm)} of {expected} answered in calm, {said}, p99 {duration(p99)}"
    )


def judge(scenario: Scenario, rows: Sequence[Row], seen: Seen) -> list[Verdict]:
    """A verdict for each promise of the scenario."""
    case = Case(scenario, rows, seen)
    found = [_errors(scenario.must, rows, seen), _wrong(scenario.must, rows)]
    for check in (_shed, _degraded, _latency, _recovery, _back, _goodput, _met, _rollout, _memory, _flat, _cancelled):
        found += check(case)
    found += [Verdict(text, held, "") for held, text in seen.promises]
    if seen.troubles:
        found.append(Verdict("the run itself", False, "; ".join(seen.troubles)))
    return found


def first_s(scenario: Scenario, seen: Seen) -> float:
    """When calm was over."""
    begun = [performed.at_s for performed in seen.performed]
    if scenario.rollout is not None:
        begun.append(float(scenario.rollout.at))
    return min(begun, default=float(scenario.calm))


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _errors(must: Must, rows: Sequence[Row], seen: Seen) -> Verdict:
    excused = [performed for performed in seen.performed if performed.excused]
    bad = [
        row
        for row in rows
        if row.outcome is Outcome.ERROR
        and not any(
            row.due_s <= (one.until_s or math.inf) + EDGE_S and row.done_s >= one.at_s - EDGE_S for one in excused
        )
    ]
    statuses = Counter(str(row.status or "no answer") for row in bad)
    said = f"{len(bad)} of {_count(len(rows))}"
    if bad:
        said += f" ({', '.join(f'{count} {status}' for status, count in sorted(statuses.items()))})"
    outside = f" outside of {excused[0].name}" if excused else ""
    if must.errors is None:
        return Verdict("client errors are allowed", True, said)
    if must.errors == "in_flight":
        return _lost_in_flight(rows, bad, seen, said)
    return Verdict(f"{must.errors} client errors{outside}", len(bad) <= must.errors, said)


def _lost_in_flight(rows: Sequence[Row], bad: Sequence[Row], seen: Seen, said: str) -> Verdict:
    """An error may only be one of a request that had been sent before a fault and wasn't answered then."""
    moments = [performed.at_s for performed in seen.performed]

    def flew(row: Row) -> bool:
        return any(row.sent_s <= at_s + STRIKE_S and row.done_s >= at_s for at_s in moments)

    others = [row for row in bad if not flew(row)]
    text = f"{said}; {sum(map(flew, rows))} were in flight"
    if others:
        text += f", {len(others)} of the errors weren't"
    return Verdict("at most what was in flight is lost", not others, text)


def _wrong(must: Must, rows: Sequence[Row]) -> Verdict:
    wrong = [row for row in rows if row.outcome is Outcome.WRONG]
    by = Counter(row.version or "nobody" for row in wrong)
    said = f"{len(wrong)} of {_count(len(rows))}"
    if wrong:
        said += f" ({', '.join(f'{count} by {version}' for version, count in sorted(by.items()))})"
    return Verdict(f"{must.wrong} wrong answers unmarked", len(wrong) <= must.wrong, said)


def _shed(case: Case) -> list[Verdict]:
    must = case.scenario.must
    shed = [row for row in case.rows if row.outcome is Outcome.SHED]
    said = f"{len(shed)} of {_count(len(case.rows))}"
    found = []
    if must.shed_max is not None:
        share = len(shed) / max(1, len(case.rows))
        found.append(Verdict(f"at most {must.shed_max:.0%} shed", share <= must.shed_max, said))
    if must.shed_min:
        found.append(Verdict(f"at least {must.shed_min} shed", len(shed) >= must.shed_min, said))
    if must.shed_within is not None:
        p99 = percentile((row.done_s - row.sent_s for row in shed), 0.99)
        held = bool(shed) and p99 <= must.shed_within
        found.append(Verdict(f"shed within {duration(must.shed_within)}", held, f"p99 {duration(p99)}"))
    return found


def _degraded(case: Case) -> list[Verdict]:
    must = case.scenario.must
    degraded = [row for row in case.rows if row.outcome is Outcome.DEGRADED]
    by = ", ".join(f"{count} {what}" for what, count in sorted(Counter(row.degraded for row in degraded).items()))
    said = f"{len(degraded)} of {_count(len(case.rows))}" + (f": {by}" if by else "")
    found = []
    if must.degraded_max is not None:
        share = len(degraded) / max(1, len(case.rows))
        found.append(Verdict(f"at most {must.degraded_max:.1%} degraded", share <= must.degraded_max, said))
    if must.degraded_min:
        held = len(degraded) >= must.degraded_min
        found.append(Verdict(f"at least {must.degraded_min} degraded, or the fault did nothing", held, said))
    if must.static_max is not None:
        static = sum(row.degraded == STATIC for row in degraded)
        held = static <= must.static_max * len(case.rows)
        found.append(Verdict(f"at most {must.static_max:.1%} get the static answer", held, f"{static} static"))
    return found


def _good(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.user in ORDINARY and row.outcome in (Outcome.OK, Outcome.DEGRADED)]


def _calm_p99(scenario: Scenario, rows: Sequence[Row]) -> float:
    return percentile((row.took_s for row in _good(rows) if row.due_s < scenario.calm), 0.99)


def _latency(case: Case) -> list[Verdict]:
    must = case.scenario.must
    begun_s = first_s(case.scenario, case.seen)
    excused = [performed for performed in case.seen.performed if performed.excused]
    hurt = [
        row.took_s
        for row in _good(case.rows)
        if row.due_s >= begun_s
        and not any(one.at_s <= row.done_s and row.due_s <= (one.until_s or 0) for one in excused)
    ]
    p99, calm = percentile(hurt, 0.99), _calm_p99(case.scenario, case.rows)
    said = f"p99 {duration(p99)}, in calm {duration(calm)}"
    found = []
    if must.p99_max is not None:
        found.append(Verdict(f"p99 at most {duration(must.p99_max)}", p99 <= must.p99_max, said))
    if must.p99_over_calm_max is not None:
        times = p99 / max(calm, CALM_LEAST_S)
        found.append(
            Verdict(f"p99 at most {must.p99_over_calm_max:g} times calm's", times <= must.p99_over_calm_max, said)
        )
    return found


def _recovery(case: Case) -> list[Verdict]:
    within_s = case.scenario.must.recover_within
    if within_s is None:
        return []
    promise = f"as in calm again within {duration(within_s)}"
    samples = [_sample(row) for row in case.rows if row.user in ORDINARY]
    fast_s = max(FAST_LEAST_S, 3 * _calm_p99(case.scenario, case.rows))
    took = [recovery(samples, _since(performed), fast_s=fast_s) for performed in case.seen.performed]
    if not took:
        return [Verdict(promise, False, "no fault was done")]
    never = sum(seconds is None for seconds in took)
    if never:
        return [Verdict(promise, False, f"not after {never} of {len(took)} faults")]
    longest = max(seconds or 0.0 for seconds in took)
    said = "not felt" if longest == 0 else f"after {duration(longest)} at most"
    return [Verdict(promise, longest <= within_s, f"{said}, {len(took)} faults")]


def _since(performed: Performed) -> float:
    """Deaths, and what one of several has, count from their moment; what hurts all, from its end."""
    target = getattr(performed.fault, "target", None)
    if performed.back_s is not None and not performed.excused:
        return performed.at_s
    if target is not None and target.which == "one":
        return performed.at_s
    return performed.at_s if performed.until_s is None else performed.until_s


def _sample(row: Row) -> Sample:
    kinds = {Outcome.OK: Kind.OK, Outcome.DEGRADED: Kind.DEGRADED, Outcome.WRONG: Kind.WRONG}
    return Sample(due_s=row.due_s, took_s=row.took_s, kind=kinds.get(row.outcome, Kind.FAILED), by=row.version)


def _back(case: Case) -> list[Verdict]:
    within_s = case.scenario.must.back_within
    if within_s is None:
        return []
    times = [performed.back_s for performed in case.seen.performed if performed.back_s is not None]
    said = f"after {duration(max(times))} at most, {len(times)} times" if times else "nothing came back"
    held = bool(times) and max(times) <= within_s
    return [Verdict(f"a replacement serves within {duration(within_s)}", held, said)]


def _goodput(case: Case) -> list[Verdict]:
    least = case.scenario.must.goodput_min
    if least is None:
        return []
    if not case.seen.peak:
        return [Verdict(f"goodput at least {least:.0%} of the peak", False, "the peak is unknown")]
    deadline_s = case.scenario.load.timeout or float(case.scenario.system.timeout)
    from_s, to_s = case.scenario.calm + SETTLE_S, case.scenario.load.seconds - deadline_s
    good = sum(row.outcome is Outcome.OK and from_s <= row.due_s < to_s for row in case.rows)
    rate = good / max(0.001, to_s - from_s)
    offered = sum(from_s <= row.due_s < to_s for row in case.rows) / max(0.001, to_s - from_s)
    said = f"{rate:.0f}/s of {case.seen.peak:.0f}/s, {rate / case.seen.peak:.0%}; {offered:.0f}/s asked"
    return [Verdict(f"goodput at least {least:.0%} of the peak", rate >= least * case.seen.peak, said)]


def _met(case: Case) -> list[Verdict]:
    """That the fault did what it should: else nothing was tried."""
    must = case.scenario.must
    found = []
    if must.met_by:
        counts = {outcome: case.seen.attempts.get(outcome, 0) for outcome in must.met_by}
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        found.append(Verdict("attempts met the fault", any(counts.values()), said))
    if must.failed_attempts_max is not None:
        failed = sum(count for outcome, count in case.seen.attempts.items() if outcome not in _NO_FAILURES)
        held = failed <= must.failed_attempts_max
        found.append(Verdict(f"at most {must.failed_attempts_max} attempts in vain", held, f"{failed} failed"))
    if must.breaker_opens:
        opened = next((at_s for at_s, state in case.seen.breakers if state >= 2), None)
        said = "never" if opened is None else f"open at {opened:.1f} s"
        found.append(Verdict("the breaker opens", opened is not None, said))
    if must.ejects:
        found.append(
            Verdict("the bad replica is ejected", case.seen.ejected, "ejected" if case.seen.ejected else "never")
        )
    return found


def _rollout(case: Case) -> list[Verdict]:
    must = case.scenario.must
    found = []
    if must.ends_as is not None:
        said = f"{case.seen.ended_as or 'no rollout'}: {case.seen.reason}".rstrip(": ")
        found.append(Verdict(f"the rollout ends as {must.ends_as}", case.seen.ended_as == must.ends_as, said))
    if must.rolled_back_within is not None:
        took_s = case.seen.rollback_s
        held = took_s is not None and took_s <= must.rolled_back_within
        said = "never" if took_s is None else f"{duration(took_s)} from the evidence to the last gateway"
        found.append(Verdict(f"rolled back within {duration(must.rolled_back_within)}", held, said))
    if must.sticky_moves_max is not None:
        found.append(_sticky(case, must.sticky_moves_max))
    return found


def _sticky(case: Case, most: int) -> Verdict:
    """Without a key that met the canary nothing was tried."""
    rollout, stable = case.scenario.rollout, case.scenario.system.stable
    assert rollout is not None
    moved = stickiness.moved_back(
        case.rows, case.seen.keys, canary=f"digits@{rollout.version}", prior=f"digits@{stable}"
    )
    said = f"{moved.back} answers went back, {moved.keys} keys met the canary"
    return Verdict(
        f"sticky keys keep their version (at most {most} don't)", moved.keys > 0 and moved.back <= most, said
    )


def _memory(case: Case) -> list[Verdict]:
    most = case.scenario.must.memory_growth_max
    if most is None:
        return []
    values = [value for _, value in case.seen.memory]
    later = values[len(values) // 4 :]
    if not later:
        return [Verdict(f"gateways grow by {most:g} MB at most", False, "not seen")]
    grown = max(later) - later[0]
    return [Verdict(f"gateways grow by {most:g} MB at most", grown <= most, f"{grown:.1f} MB over {later[0]:.0f} MB")]


def _flat(case: Case) -> list[Verdict]:
    must = case.scenario.must.flat
    return [] if must is None else flatness(must, case.seen.counted, seconds=case.scenario.load.seconds)


def _cancelled(case: Case) -> list[Verdict]:
    most = case.scenario.must.cancelled_computed_max
    if most is None:
        return []
    promise = f"at most {most:.0%} of the cancelled are computed"
    cancelled = sum(row.outcome is Outcome.CANCELLED for row in case.rows)
    if case.seen.computed is None or not cancelled:
        return [Verdict(promise, False, "not seen")]
    answered = sum(row.outcome is Outcome.OK for row in case.rows)
    vain = max(0, case.seen.computed - answered)
    return [Verdict(promise, vain <= most * cancelled, f"{vain} of {cancelled}")]
