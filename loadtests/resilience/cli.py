"""The command line."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.resilience import table
from loadtests.resilience.errors import RunError
from loadtests.resilience.run import Plan, as_json, run
from loadtests.resilience.scenario import Scenario
from loadtests.resilience.scenarios import SCENARIOS
from loadtests.resilience.setups import PROTECTIONS
from loadtests.resilience.stage import Pace
from loadtests.terminal import sigterm_is_ctrl_c, timed

SHORT_S = 7.0
FULL_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all held, 1 when not, 2 when it couldn't run, 130 when interrupted."""
    options = _parser().parse_args(argv)
    sigterm_is_ctrl_c()
    say = timed()

    try:
        plan = _plan(options)
        results = asyncio.run(run(plan, say))
    except RunError as error:
        print(f"resilience: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("resilience: interrupted", file=sys.stderr)
        return 130
    should_fail = plan.protection is not None
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(plan, results), indent=2) + "\n")
    print()
    if should_fail:
        print(f"Without {plan.protection}:\n")
    print(table.render(results, should_fail=should_fail))
    return 0 if table.went_well(results, should_fail=should_fail) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.resilience",
        description="Steady load on a whole Holdfast while its parts are hurt. Prints one table.",
        epilog="Scenarios: " + ", ".join(scenario.name for scenario in SCENARIOS),
    )
    parser.add_argument("--only", type=_scenarios, metavar="NAME,NAME", help="default: all")
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="of load in each scenario, at least (60)")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_S:g} s each, with bounds for a busy machine")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides who is hurt, and when exactly (0)")
    parser.add_argument(
        "--without", choices=PROTECTIONS, help="switch it off and run what should fail then; well if it does"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="of the models")
    parser.add_argument("--keep", action="store_true", help="leave the systems' folders with their logs in /tmp")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    if not (options.store / "digits").is_dir():
        raise RunError(f"no models in {options.store}: `python -m models.zoo --store {options.store}` makes them")
    chosen: Sequence[Scenario] = options.only or SCENARIOS
    if options.without is not None and options.only is None:
        chosen = [each for each in SCENARIOS if each.name in PROTECTIONS[options.without].scenarios]
    seconds = options.seconds or (SHORT_S if options.short else FULL_S)
    return Plan(
        scenarios=chosen,
        store=options.store,
        pace=Pace.short(seconds) if options.short else Pace.full(seconds),
        seed=options.seed,
        protection=options.without,
        keep=options.keep,
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 5 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be from 5 to 3600")
    return value


def _scenarios(text: str) -> tuple[Scenario, ...]:
    """In the order of the table, whatever order they were named in."""
    wanted = set(text.split(","))
    unknown = wanted - {scenario.name for scenario in SCENARIOS}
    if unknown:
        known = ", ".join(scenario.name for scenario in SCENARIOS)
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {known}")
    return tuple(scenario for scenario in SCENARIOS if scenario.name in wanted)
