"""The command line."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtests.alerts import chaos, live, promtool
from loadtests.alerts.judging import table
from loadtests.chaos.spec import ScenarioError
from loadtests.resilience.errors import RunError
from loadtests.terminal import sigterm_is_ctrl_c, timed


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all held, 1 when not, 2 when it couldn't run, 130 when interrupted."""
    options = parser().parse_args(argv)
    sigterm_is_ctrl_c()
    try:
        return asyncio.run(_work(options))
    except (ScenarioError, RunError) as error:
        print(f"alerts: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("alerts: interrupted", file=sys.stderr)
        return 130


async def _work(options: argparse.Namespace) -> int:
    say = timed()

    if options.command == "chaos":
        out = options.out or Path(".alerts") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        scenarios = chaos.chosen(options.only)
        lines = await chaos.played(scenarios, store=options.store, out=out, seed=options.seed, say=say)
        print(f"\n{table(lines)}\nrecords are in {out}")
        return 0 if not any(line.complaint for line in lines) else 1
    if options.command in ("all", "rules"):
        for line in await promtool.checked():
            say(line)
    if options.command in ("all", "dashboards"):
        complaints = await live.missing(options.store, say)
        for complaint in complaints:
            print(complaint)
        return 1 if complaints else 0
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.alerts",
        description="Rules, dashboards and alerts of deploy/, tried with a real Prometheus.",
    )
    parser.add_argument("--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="of the models")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parser.set_defaults(command="all")  # once there is a COMMAND: before, its own default of None would win
    commands.add_parser("all", help="rules, then dashboards (this, if left out)")
    commands.add_parser("rules", help="have promtool check and test the rules")
    commands.add_parser("dashboards", help="run every query of every dashboard against a running system")
    scenarios = commands.add_parser("chaos", help="play chaos scenarios and tell which alerts fired")
    scenarios.add_argument("--only", metavar="NAME,NAME", help="only these; `calm` is one")
    scenarios.add_argument("--seed", type=int, default=0, metavar="N", help="decides when and who exactly (0)")
    scenarios.add_argument("--out", type=Path, metavar="DIR", help="of the records (.alerts/MOMENT)")
    return parser
