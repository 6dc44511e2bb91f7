"""The command line."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from loadtests.chaos import library, table
from loadtests.chaos.run import Say, run
from loadtests.chaos.spec import Scenario, ScenarioError
from loadtests.chaos.table import Line
from loadtests.resilience.errors import RunError


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all held, 1 when not, 2 when it couldn't run, 130 when interrupted."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "list":
            for scenario in library.everything():
                print(f"{scenario.name:<26} {scenario.load.seconds:>4.0f} s  {scenario.title}")
            return 0
        chosen = library.everything() if options.command == "all" else [library.load(options.scenario)]
        if options.command == "all" and options.only:
            chosen = [library.load(name) for name in options.only.split(",")]
        signal.signal(signal.SIGTERM, _interrupt)
        return _run(chosen, options)
    except (ScenarioError, RunError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("chaos: interrupted", file=sys.stderr)
        return 130


def _run(chosen: Sequence[Scenario], options: argparse.Namespace) -> int:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    out = options.out or Path(".chaos") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    several = options.command == "all"
    lines = []
    for number, scenario in enumerate(chosen, 1):
        if several:
            say(f"{number} of {len(chosen)}: {scenario.title}")
        lines.append(_one(scenario, options, out / scenario.name, say, several=several))
    print(f"\n{table.of_all(lines)}\nrecords are in {out}")
    return 0 if all(line.held for line in lines) else 1


def _one(scenario: Scenario, options: argparse.Namespace, folder: Path, say: Say, *, several: bool) -> Line:
    """Among several one that can't run is a line of the table; alone it is an error."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = asyncio.run(
            run(scenario, seed=options.seed, store=options.store, folder=folder, say=say, keep=options.keep)
        )
    except RunError as error:
        if not several:
            raise
        say(f"{scenario.name}: {error}")
        return Line(scenario.name, (), str(error))
    print(f"\n{table.of_verdicts(scenario.name, result.verdicts, result.notes)}\n", flush=True)
    return table.line(scenario.name, result.rows, result.verdicts)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.chaos",
        description="Scenarios from files: load, faults at moments that a seed decides, and a verdict on every promise.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="name all scenarios")
    one = commands.add_parser("run", help="run one, by name or by file")
    one.add_argument("scenario", metavar="NAME|FILE")
    everything = commands.add_parser("all", help="run all, one after the other")
    everything.add_argument("--only", metavar="NAME,NAME", help="only these")
    for command in (one, everything):
        command.add_argument("--seed", type=int, default=0, metavar="N", help="decides when and who exactly (0)")
        command.add_argument("--out", type=Path, metavar="DIR", help="of the records (.chaos/MOMENT)")
        command.add_argument(
            "--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="of the models"
        )
        command.add_argument("--keep", action="store_true", help="leave the systems' folders with their logs in /tmp")
    return parser
