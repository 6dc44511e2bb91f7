"""``holdfast doctor``: looks whether this machine is fit, before a start or beside a Holdfast that runs.

Not here: what is looked at (``serving.doctor.probes``), and what is good (``serving.doctor.checks``).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from serving.clock import SystemClock
from serving.commands.options import Subparsers, config_option, settings_of, write_whatever_happens
from serving.commands.terminal import Line, clean, drawn, wrapped
from serving.doctor.checks import Check, examine

MAX_WIDTH: Final = 120
_MARKS: Final = {"ok": ("✓", "green"), "warn": ("!", "bold yellow"), "bad": ("✗", "bold red")}


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``doctor``; it sets ``run``, a function of the parsed arguments to an exit code."""
    text = "look whether this machine is fit for Holdfast, and say what to do if it isn't"
    parser = subparsers.add_parser(
        "doctor",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. It changes nothing, and reads every file of the store.",
        epilog="Code 0: nothing is bad. Code 1: something is, or with --strict, there is a warning.",
    )
    config_option(parser)
    parser.add_argument("--strict", action="store_true", help="warnings count, too")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from serving.doctor.probes import find

    write_whatever_happens()
    settings = settings_of(args.config)
    checks = examine(settings, find(settings, SystemClock()))
    failing = ("warn", "bad") if args.strict else ("bad",)
    fit = not any(check.state in failing for check in checks)
    if args.json:
        raw = msgspec.json.encode({"fit": fit, "checks": checks})
        sys.stdout.write(f"{msgspec.json.format(raw, indent=2).decode()}\n")
    else:
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
        for line in doctor_lines(checks, width):
            sys.stdout.write(f"{drawn(line, width, color=sys.stdout.isatty())}\n")
    return 0 if fit else 1


def doctor_lines(checks: Iterable[Check], width: int) -> Iterator[Line]:
    """A line or more for each check, what to do below what was seen, and the sum at the end."""
    checks = list(checks)
    label = max((len(check.name) for check in checks), default=0) + 2
    for check in checks:
        mark, style = _MARKS[check.state]
        for number, text in enumerate(wrapped(check.seen, width - label - 2)):
            head = f"{clean(check.name):{label}}" if number == 0 else " " * label
            yield [
                (f"{mark if number == 0 else ' '} ", style),
                (head, ""),
                (text, "" if check.state == "ok" else style),
            ]
        if check.advice:
            for number, text in enumerate(wrapped(check.advice, width - label - 4)):
                yield [(" " * (label + 2), ""), ("→ " if number == 0 else "  ", "cyan"), (text, "cyan")]
    count = {state: sum(check.state == state for check in checks) for state in _MARKS}
    warnings = f"{count['warn']} warning{'' if count['warn'] == 1 else 's'}"
    if count["bad"]:
        yield [(f"not fit: {count['bad']} bad, {warnings}, {count['ok']} ok", "bold red")]
    elif count["warn"]:
        yield [(f"fit, with {warnings}; {count['ok']} ok", "bold yellow")]
    else:
        yield [(f"fit: all {count['ok']} checks are ok", "bold green")]
