"""``holdfast backup`` and ``holdfast restore``: what can't be made anew, written to one place and put back from it.

Not here: what is in a backup, and how it is put in place (``serving.backup``).
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from serving.backup.contents import NEVER_KEPT, BackupError, Contents
from serving.commands.options import Subparsers, config_option, settings_of, write_whatever_happens
from serving.commands.terminal import clean

INCOMPLETE = 1


def add_parsers(subparsers: Subparsers) -> None:
    """Adds ``backup`` and ``restore``. Each sets ``run``, a function of the parsed arguments to an exit code."""
    text = "write the model registry and the event log to one place, also while Holdfast serves"
    parser = subparsers.add_parser(
        "backup",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Never in it: {', '.join(NEVER_KEPT)}.",
    )
    config_option(parser)
    parser.add_argument("target", type=Path, metavar="DIR|FILE.tar", help="where nothing is yet")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=_backup)

    text = "verify a backup wholly, and put it in place; no Holdfast may run there"
    parser = subparsers.add_parser("restore", help=text, description=f"{text[0].upper()}{text[1:]}.")
    config_option(parser)
    parser.add_argument("source", type=Path, metavar="DIR|FILE", help="what `holdfast backup` has written")
    parser.add_argument(
        "--force", action="store_true", help="also if something is there: that is moved aside, and nothing is deleted"
    )
    parser.add_argument(
        "--keep-log", action="store_true", help="leave the event log that is there alone, because it is newer"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=_restore)


def _backup(args: argparse.Namespace) -> int:
    """0 if all is in it, 1 if nothing was written, or if a version was left out because it is damaged."""
    from serving.backup.making import back_up
    from serving.ingress.front import own_version

    write_whatever_happens()
    settings = settings_of(args.config)
    say = _quiet if args.json else _say
    try:
        contents = back_up(settings, args.target, now=datetime.now(UTC), holdfast=own_version(), say=say)
    except BackupError as error:
        return _failed("backup", str(error))
    for name, reason in contents.broken.items():
        _failed("backup", f"{name} is NOT in the backup: {reason}")
    if args.json:
        _write_json({"backup": str(args.target), "never_kept": NEVER_KEPT, **_document(contents)})
    else:
        _say(f"{args.target}: {_summary(contents)}; not in it: {', '.join(NEVER_KEPT)}")
    return INCOMPLETE if contents.broken else 0


def _restore(args: argparse.Namespace) -> int:
    """0 if the backup is in place, 1 if nothing was changed."""
    from serving.backup.restoring import restore

    write_whatever_happens()
    settings = settings_of(args.config)
    try:
        done = restore(settings, args.source, now=datetime.now(UTC), force=args.force, keep_log=args.keep_log)
    except BackupError as error:
        return _failed("restore", str(error))
    if args.json:
        told = {"decisions": done.decisions, "mismatches": done.mismatches, "aside": done.aside}
        _write_json({"backup": str(args.source), **told, **_document(done.contents)})
        return 0
    for name, digest in done.contents.versions.items():
        _say(f"{name} {digest}")
    for place in done.aside:
        _say(f"what was there before is kept in {place}")
    if done.mismatches:
        _say(f"{done.mismatches} of {done.decisions} decisions in the log would be others in this release of Holdfast")
    elif done.decisions:
        _say(f"all {done.decisions} decisions in the log match byte for byte")
    _say(f"restored, as of {done.contents.created}: {_summary(done.contents)}")
    return 0


def _summary(contents: Contents) -> str:
    log = "no event log" if contents.log is None else f"event log up to event {contents.log.seq}"
    return f"{len(contents.versions)} model versions, {log}, {contents.size_bytes / 1e6:.1f} MB"


def _document(contents: Contents) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(contents)
    del document["files"]
    return {**document, "size_bytes": contents.size_bytes}


def _quiet(_: str) -> None:
    """For programs, which get all at the end."""


def _say(text: str) -> None:
    sys.stdout.write(f"{clean(text)}\n")


def _write_json(document: dict[str, Any]) -> None:
    sys.stdout.write(f"{msgspec.json.format(msgspec.json.encode(document), indent=2).decode()}\n")


def _failed(command: str, reason: str) -> int:
    sys.stderr.write(f"holdfast {command}: {clean(reason)}\n")
    return 1
