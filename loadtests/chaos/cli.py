"""The command line."""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtests.chaos import broken, composed, library, progress, table
from loadtests.chaos.broken import Noticed
from loadtests.chaos.one import Say
from loadtests.chaos.protections import PROTECTIONS
from loadtests.chaos.run import THE_END, Failure, Plan, run, scheduled
from loadtests.chaos.spec import Scenario, ScenarioError, lasting
from loadtests.chaos.table import Line
from loadtests.report import cli as report
from loadtests.resilience.errors import RunError
from loadtests.terminal import sigterm_is_ctrl_c, timed


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all held, 1 when not, 2 when it couldn't run, 130 when interrupted."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "list":
            for scenario in library.everything():
                alone = "  (alone)" if scenario.alone else ""
                print(f"{scenario.name:<26} {scenario.load.seconds:>4.0f} s  {scenario.title}{alone}")
            return 0
        if options.command == "schedule":
            print(_schedule(library.load(options.scenario), options.seed), end="")
            return 0
        sigterm_is_ctrl_c()
        return _broken(options) if options.command == "broken" else _work(_chosen(options), options)
    except (ScenarioError, RunError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("chaos: interrupted", file=sys.stderr)
        return 130


def _chosen(options: argparse.Namespace) -> list[Scenario]:
    if options.command == "all":
        return [library.load(name) for name in options.only.split(",")] if options.only else library.together()
    scenario = library.load(options.scenario)
    seconds = options.seconds if options.minutes is None else options.minutes * 60
    return [scenario if seconds is None else lasting(scenario, seconds)]


def _schedule(scenario: Scenario, seed: int) -> str:
    """As `run` would play it with this seed."""
    return composed.text(composed.composed(scenario, seed, scheduled(scenario, seed)))


def _broken(options: argparse.Namespace) -> int:
    names = options.only.split(",") if options.only else list(PROTECTIONS)
    if unknown := [name for name in names if name not in PROTECTIONS]:
        raise RunError(f"there is no protection {unknown[0]!r}; there are {', '.join(PROTECTIONS)}")
    plan = _plan((), options)
    found = asyncio.run(_all_broken(plan, names, options.write_docs, timed()))
    print(f"\n{broken.in_a_terminal(found)}\nrecords are in {plan.out}")
    return 0 if all(one.noticed for one in found) else 1


async def _all_broken(plan: Plan, names: Sequence[str], page: Path | None, say: Say) -> list[Noticed]:
    found: list[Noticed] = []
    async with contextlib.aclosing(broken.broken(plan, names, say)) as results:
        async for one in results:
            title = f"{PROTECTIONS[one.protection].scenario} without {one.protection}"
            print(f"\n{table.of_verdicts(title, one.verdicts)}\n", flush=True)
            say(f"without {one.protection}: {'noticed' if one.noticed else 'NOT noticed'}{one.why and ', ' + one.why}")
            found.append(one)
            if page is not None:
                broken.write(page, one)
    return found


def _plan(chosen: Sequence[Scenario], options: argparse.Namespace) -> Plan:
    return Plan(
        scenarios=chosen,
        store=options.store,
        out=options.out or Path(".chaos") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
        seed=options.seed,
        at=options.at,
        protection=options.without,
        keep=options.keep,
    )


def _work(chosen: Sequence[Scenario], options: argparse.Namespace) -> int:
    plan = _plan(chosen, options)
    say = timed()
    lines = asyncio.run(_all(plan, say))
    print(f"\n{table.of_all(lines)}\nrecords are in {plan.out}")
    if folders := sorted(record.parent for record in plan.out.rglob("run.json")):
        report.main(
            [*map(str, folders), "--out", str(plan.out / "index.html")] if len(folders) > 1 else [str(folders[0])]
        )
        print(f"to be read in a browser: {plan.out / 'index.html' if len(folders) > 1 else folders[0] / report.REPORT}")
    return 0 if all(line.held for line in lines) else 1


async def _all(plan: Plan, say: Say) -> list[Line]:
    lines: list[Line] = []
    began, seconds = time.monotonic(), {each.name: each.load.seconds for each in plan.scenarios}
    if len(plan.scenarios) > 1:
        say(progress.at_first(list(seconds.values())))
    async with contextlib.aclosing(run(plan, say)) as results:
        async for result in results:
            if isinstance(result, Failure):
                say(f"{result.name}: {result.why}")
                lines.append(Line(result.name, (), result.why))
                continue
            name = result.scenario.name
            print(f"\n{table.of_verdicts(name, result.verdicts, result.notes)}\n", flush=True)
            lines.append(table.line(name, result.rows, result.verdicts))
            if len(plan.scenarios) > 1:
                done = sum(each.name != THE_END for each in lines)
                played = sum(seconds.get(line.name, 0.0) for line in lines)
                left = progress.left(time.monotonic() - began, played, sum(seconds.values()))
                say(f"{done} of {len(plan.scenarios)} done, {sum(line.held for line in lines)} held{left}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.chaos",
        description="Scenarios from files: load, faults when a seed says so, and a verdict on every promise.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="name all scenarios")
    one = commands.add_parser("run", help="run one, by name or by file")
    one.add_argument("scenario", metavar="NAME|FILE")
    length = one.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, metavar="N", help="so long instead of as its file says")
    length.add_argument("--minutes", type=float, metavar="N", help="the same in minutes")
    everything = commands.add_parser("all", help="run all but those that are played alone, one after the other")
    everything.add_argument("--only", metavar="NAME,NAME", help="only these")
    printed = commands.add_parser("schedule", help="print one with its seed played out, as a file that `run` takes")
    printed.add_argument("scenario", metavar="NAME|FILE")
    without = commands.add_parser("broken", help="switch each protection off and see whether its scenario notices")
    without.add_argument("--only", metavar="NAME,NAME", help=f"only these of {', '.join(PROTECTIONS)}")
    without.add_argument("--write-docs", type=Path, metavar="FILE", help="put its lines into this page (docs/chaos.md)")
    without.set_defaults(at=None, without=None)
    for command in (one, everything, printed, without):
        command.add_argument("--seed", type=int, default=0, metavar="N", help="decides when and who exactly (0)")
    for command in (one, everything, without):
        command.add_argument("--out", type=Path, metavar="DIR", help="of the records (.chaos/MOMENT)")
        command.add_argument(
            "--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="of the models"
        )
        command.add_argument("--keep", action="store_true", help="leave the systems' folders with their logs in /tmp")
    for command in (one, everything):
        command.add_argument("--without", choices=PROTECTIONS, help="switch it off: what it is for should fail then")
        command.add_argument("--at", metavar="URL", help="a system that is there already, on this machine")
    return parser
