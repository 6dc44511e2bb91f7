"""``holdfast replay``: what an event log comes to, and whether its decisions come out again byte for byte.

It only reads, and makes no log where there is none. Not here: folding and deciding (``serving.rollout.history``).
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

import msgspec

from serving.commands.lines import replay_lines
from serving.commands.options import Subparsers, config_option, settings_of, write_whatever_happens
from serving.commands.terminal import clean, drawn
from serving.places import shown_place
from serving.rollout.event_log import LogCompacted, LogError, LogMissing, open_log
from serving.rollout.history import Replayed, replayed
from serving.rollout.report import report

WRONG_ARGUMENTS: Final = 2


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``replay``; it sets ``run``, a function of the parsed arguments to an exit code."""
    text = "decide everything in an event log again, and say whether it comes out the same"
    parser = subparsers.add_parser("replay", help=text, description=f"{text[0].upper()}{text[1:]}.")
    config_option(parser)
    parser.add_argument("--until", type=_number, metavar="SEQ", help="the last event to look at (default: all)")
    parser.add_argument(
        "--log", metavar="URL|PATH", help="an SQLite file or postgresql://... (default: what the settings name)"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=_run)


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _run(args: argparse.Namespace) -> int:
    """0 if all decisions match, 1 if not or if the log can't be read, 2 if there is nothing to replay."""
    write_whatever_happens()
    url: str = args.log or settings_of(args.config).event_log_place
    try:
        again = _replayed(url, args.until)
    except (LogMissing, LogCompacted, ValueError) as error:  # ValueError: a URL of another kind
        return _failed(str(error), WRONG_ARGUMENTS)
    except LogError as error:
        return _failed(str(error), 1)
    if args.until is not None and again.seq < args.until:
        return _failed(f"there is no event {args.until}: the log ends with event {again.seq}", WRONG_ARGUMENTS)
    if args.json:
        raw = msgspec.json.format(msgspec.json.encode(_document(shown_place(url), again)), indent=2)
        sys.stdout.write(f"{raw.decode()}\n")
    else:
        for line in replay_lines(shown_place(url), again):
            sys.stdout.write(f"{drawn(line, None, color=False)}\n")
    return 1 if again.mismatches else 0


def _replayed(url: str, until: int | None) -> Replayed:
    log = open_log(url, create=False)
    try:
        return replayed(log, until=until)
    finally:
        log.close()


def _document(where: str, again: Replayed) -> dict[str, Any]:
    """Everything for programs; rollouts as the admin API tells them, events as the log has them."""
    first = again.first
    return {
        "log": where,
        "exact": again.mismatches == 0,
        "began_after": again.began_after,
        "seq": again.seq,
        "events": again.events,
        "others": again.others,
        "decisions": again.decisions,
        "mismatches": again.mismatches,
        "first": None
        if first is None
        else {"seq": first.seq, "recorded": _text(first.recorded), "recomputed": _text(first.recomputed)},
        "rollouts": [report(state) for state in again.desired.rollouts.values()],
        "rolled_back": again.desired.rolled_back,
    }


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _failed(reason: str, code: int) -> int:
    sys.stderr.write(f"holdfast replay: {clean(reason)}\n")
    return code
