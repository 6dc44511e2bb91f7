"""The command line."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.resilience.errors import RunError
from loadtests.rollouts.run import Plan, as_json, run
from loadtests.rollouts.scenario import Scenario
from loadtests.rollouts.scenarios import SCENARIOS
from loadtests.rollouts.verdict import render, went_well
from loadtests.terminal import sigterm_is_ctrl_c, timed

REST_S = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all held, 1 when not, 2 when it couldn't run, 130 when interrupted."""
    options = _parser().parse_args(argv)
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:<24} {(scenario.run.__doc__ or '').strip()}")
        return 0
    sigterm_is_ctrl_c()
    say = timed()

    plan = Plan(
        scenarios=options.only or SCENARIOS,
        source=options.store,
        rest_s=options.seconds,
        seed=options.seed,
        keep=options.keep,
    )
    try:
        outcomes = asyncio.run(run(plan, say))
    except RunError as error:
        print(f"rollouts: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rollouts: interrupted", file=sys.stderr)
        return 130
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(plan, outcomes), indent=2) + "\n")
    print()
    print(render(outcomes))
    return 0 if went_well(outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.rollouts",
        description="Rollouts of good and bad versions on a whole Holdfast under load. Prints one table.",
    )
    parser.add_argument("--only", type=_scenarios, metavar="NAME,NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="name all scenarios, and stop")
    parser.add_argument(
        "--seconds", type=_seconds, default=REST_S, metavar="N", help=f"of load after a rollout is over ({REST_S:g})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides when exactly faults happen (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="of the models")
    parser.add_argument("--keep", action="store_true", help="leave the systems' folders with their logs in /tmp")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be from 1 to 3600")
    return value


def _scenarios(text: str) -> tuple[Scenario, ...]:
    """In the order of the table, whatever order they were named in."""
    wanted = set(text.split(","))
    unknown = wanted - {scenario.name for scenario in SCENARIOS}
    if unknown:
        known = ", ".join(scenario.name for scenario in SCENARIOS)
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {known}")
    return tuple(scenario for scenario in SCENARIOS if scenario.name in wanted)
