"""The command line: `setup`, `run`, `hit`, `report`."""

import argparse
import http.client
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from loadtests.bench import install, machine, measure, plot, report, wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.lineup import SYSTEMS
from loadtests.bench.plan import Plan
from loadtests.bench.report import OURS
from loadtests.bench.results import Failure, Results
from loadtests.bench.server import busy_ports
from loadtests.bench.systems import HOLDFAST_CMD, ROOT, Place, System
from loadtests.bench.workloads import MLP, PAYLOADS, Form, Payload, complaint, payload_named, post, write_body
from loadtests.terminal import sigterm_is_ctrl_c


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all went well, 1 with one line on stderr when not, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    sigterm_is_ctrl_c()
    try:
        status: int = arguments.command(arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return status


_KNOWN = f"of {', '.join(PAYLOADS)}; default: all"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="setup|run|hit|report")

    work = argparse.ArgumentParser(add_help=False)
    work.add_argument("--work", type=_directory, default=_directory(".bench"), metavar="DIR", help="default .bench")

    setup = commands.add_parser("setup", parents=[work], help="install the peers and make the models")
    setup.set_defaults(command=_setup)

    run = commands.add_parser("run", parents=[work], help="measure all systems, round after round")
    run.add_argument(
        *("--repeat", "--rounds"), type=_positive, default=3, metavar="N", help="rounds; medians are reported (3)"
    )
    run.add_argument("--seconds", type=_positive, default=3, help="for each figure (3)")
    run.add_argument("--payloads", type=_payloads, default=tuple(PAYLOADS.values()), metavar="NAME,NAME", help=_KNOWN)
    run.add_argument("--c", type=_counts, metavar="N,N", help="connections; default: what suits each payload")
    run.add_argument("--only", type=_systems, default=SYSTEMS, metavar="NAME,NAME", help="default: all")
    run.add_argument("--port-base", type=_positive, default=18000, help="the first of 1000 ports to choose from")
    run.add_argument("--holdfast-cmd", default=HOLDFAST_CMD, help="CONFIG in it stands for the configuration file")
    run.set_defaults(command=_run)

    shown = commands.add_parser("report", parents=[work], help="render the results as Markdown and SVG")
    shown.add_argument("--write-docs", action="store_true", help="also to docs/benchmarks.md")
    shown.set_defaults(command=_report)

    hit = commands.add_parser("hit", help="measure one URL now")
    hit.add_argument("url", help="the whole URL, model path included: http://127.0.0.1:8010/v2/models/mlp/infer")
    hit.add_argument("--c", type=_counts, default=(1, 32, 128), metavar="1,32,128", help="connections")
    hit.add_argument("--seconds", type=_positive, default=6, help="for each number of connections (6)")
    hit.add_argument("--payload", choices=PAYLOADS, default=MLP.name, help="what to send")
    hit.add_argument("--form", type=Form, choices=Form, default=Form.BINARY, help="how, if it is a binary one")
    hit.set_defaults(command=_hit)
    return parser


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("every number must be at least 1")
    return counts


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return value


def _directory(text: str) -> Path:
    return Path(text).resolve()


def _systems(text: str) -> tuple[System, ...]:
    """In the order of the table, whatever order they were named in."""
    wanted = set(text.split(","))
    unknown = wanted - {system.name for system in SYSTEMS}
    if unknown:
        known = ", ".join(system.name for system in SYSTEMS)
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {known}")
    return tuple(system for system in SYSTEMS if system.name in wanted)


def _payloads(text: str) -> tuple[Payload, ...]:
    """In the order of the page."""
    try:
        wanted = {payload_named(name) for name in text.split(",")}
    except BenchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return tuple(payload for payload in PAYLOADS.values() if payload in wanted)


def _say(line: str) -> None:
    print(line, flush=True)


def _setup(arguments: argparse.Namespace) -> int:
    install.setup(arguments.work, _say)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    """Checks all that can be checked before the first system starts: a run takes minutes."""
    place = Place(arguments.work, arguments.port_base, arguments.holdfast_cmd)
    missing = install.missing(place.work)
    if missing:
        raise BenchError(f"not set up: {', '.join(missing)}; run `setup --work {place.work}` first")
    wrk.require_wrk()
    busy = busy_ports(sorted({port for system in arguments.only for port in system.ports(place)}))
    if busy:
        raise BenchError(f"port {', '.join(map(str, busy))} of 127.0.0.1 is in use; choose others with --port-base")
    plan = Plan(
        place=place,
        systems=arguments.only,
        repeat=arguments.repeat,
        seconds=arguments.seconds,
        payloads=tuple(
            replace(payload, connections=arguments.c or payload.connections) for payload in arguments.payloads
        ),
    )
    _say(f"about {plan.expected_s / 60:.0f} minutes")
    results = _measured(plan)
    _say(f"results: {place.work / 'results.json'}")
    failed = sorted({failure.system for failure in results.failures})
    if failed:
        raise BenchError(f"not measured in every round: {', '.join(failed)}")
    return 0


def _measured(plan: Plan) -> Results:
    """Saves after every figure, so that an interrupted run leaves what it has."""
    results = Results(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.describe(),
        versions={OURS: machine.own_versions(ROOT)} | install.versions(plan.place.work),
        settings={
            "repeat": plan.repeat,
            "seconds": plan.seconds,
            "connections": {payload.name: list(payload.connections) for payload in plan.payloads},
            "systems": {
                system.name: {"settings": system.settings, "choices": [asdict(choice) for choice in system.choices]}
                for system in plan.systems
            },
        },
    )
    for event in measure.run(plan, _say):
        if isinstance(event, Failure):
            results.failures.append(event)
        else:
            results.samples.append(event)
        results.save(plan.place.work)
    return results


def _report(arguments: argparse.Namespace) -> int:
    results = Results.load(arguments.work)
    page = report.render(results)
    pictures = {report.plot_name(section.payload): plot.render(section) for section in report.sections(results)}
    directories = [arguments.work, ROOT / "docs"] if arguments.write_docs else [arguments.work]
    for directory in directories:
        directory.mkdir(exist_ok=True)
        (directory / "benchmarks.md").write_text(page)
        for name, picture in pictures.items():
            (directory / name).write_text(picture)
        print(f"written: {directory / 'benchmarks.md'}", file=sys.stderr)
    print(page)
    return 0


def _hit(arguments: argparse.Namespace) -> int:
    wrk.require_wrk()
    with tempfile.TemporaryDirectory(prefix="hfb-") as directory:
        body = write_body(PAYLOADS[arguments.payload], Path(directory), binary_form=arguments.form)
        try:
            wrong = complaint(post(arguments.url, body), None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise BenchError(f"no answer from {arguments.url}: {error}") from error
        if wrong:
            raise BenchError(f"{arguments.url} answers {wrong}")
        for connections in arguments.c:
            load = wrk.run(arguments.url, body, connections=connections, seconds=arguments.seconds)
            failed = f"  NOT OK {load.bad_status + load.socket_errors}" if load.bad_status + load.socket_errors else ""
            print(
                f"c={connections:<4} p50 {load.p50_ms:8.3f} ms   p99 {load.p99_ms:8.3f} ms   "
                f"{load.per_second:9.0f} req/s{failed}",
                flush=True,
            )
    return 0
