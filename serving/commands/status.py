"""``holdfast status``: asks a running Holdfast how it is, past a HAProxy that is gone if need be.

Not here: what the screen says (``serving.commands.status_lines``), and the verdict, which Holdfast gives itself
(``serving.live``).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import Any, Final

import msgspec

from serving.cluster import StartError
from serving.commands.asking import CommandFailed, Holdfast, NobodyAnswers, Refused, decoded
from serving.commands.options import Subparsers, config_option, settings_of, write_whatever_happens
from serving.commands.status_lines import MAX_WIDTH, status_lines
from serving.commands.terminal import clean, drawn
from serving.live.snapshot import Snapshot
from serving.settings import Settings

OVERVIEW: Final = "/v2/holdfast/overview"
FRONT_S: Final = 5.0
GATEWAY_S: Final = 2.0
NOT_FINE: Final = 1
NOT_ASKED: Final = 2


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``status``; it sets ``run``, a function of the parsed arguments to an exit code."""
    text = "say whether the running Holdfast is fine, and if not, what is wrong"
    parser = subparsers.add_parser(
        "status",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="Code 0: it is fine. Code 1: it is degraded or bad. Code 2: it can't be asked.",
    )
    config_option(parser)
    parser.add_argument("--json", action="store_true", help="answer in JSON, as /v2/holdfast/overview does")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    write_whatever_happens()
    try:
        document = _asked(settings_of(args.config))
        snapshot = decoded(msgspec.json.encode(document), Snapshot)
    except (StartError, CommandFailed) as error:
        sys.stderr.write(f"holdfast status: {clean(str(error))}\n")
        return NOT_ASKED
    if args.json:
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
    else:
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
        for line in status_lines(snapshot, width):
            sys.stdout.write(f"{drawn(line, width, color=sys.stdout.isatty())}\n")
    return 0 if snapshot.verdict.state == "fine" else NOT_FINE


def _asked(settings: Settings) -> dict[str, Any]:
    """The overview, as whoever answers tells it; what a later release adds to it stays. Raises ``CommandFailed``."""
    try:
        return decoded(Holdfast(settings, timeout_s=FRONT_S).get(OVERVIEW), dict[str, Any])
    except (NobodyAnswers, Refused) as error:
        if isinstance(error, Refused) and not error.passing:
            raise
        said = str(error)
    first, last = settings.http.gateway_ports
    for port in range(first, last + 1):
        try:
            document = decoded(Holdfast(settings, timeout_s=GATEWAY_S, gateway=port).get(OVERVIEW), dict[str, Any])
        except CommandFailed:
            continue
        return _shut_out(document, f"clients can't get in: {said} (this is what the gateway at {port} says)")
    raise NobodyAnswers(f"{said}, and neither does a gateway at {first} to {last}; {_hint(settings)}")


def _shut_out(document: dict[str, Any], reason: str) -> dict[str, Any]:
    """The same, with what a gateway can't know."""
    verdict = document.get("verdict")
    reasons = verdict.get("reasons", []) if isinstance(verdict, dict) else []
    return {**document, "verdict": {"state": "bad", "reasons": [reason, *reasons]}}


def _hint(settings: Settings) -> str:
    from serving.doctor.probes import find_running

    return find_running(settings) or "no Holdfast runs with this state_dir here"
