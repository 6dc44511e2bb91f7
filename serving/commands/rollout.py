"""``holdfast rollout``: start rollouts, look at them and command them, for people and, with ``--json``, for programs.

Not here: what a rollout does (``serving.rollout``), and how things look (``serving.commands.screen``, ``lines``).
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from serving.commands import watch
from serving.commands.asking import ROLLOUTS, CommandFailed, Holdfast, decoded, rollout_path
from serving.commands.lines import history_lines, overview_lines
from serving.commands.options import Subparsers, config_option, settings_of, write_whatever_happens
from serving.commands.screen import render
from serving.commands.terminal import Line, clean, drawn
from serving.rollout.file import lint_rollout, parse_rollout
from serving.rollout.history import History, HistoryEvent
from serving.rollout.report import Overview, RolloutReport

PAGE_EVENTS: Final = 500
WRONG_FILE: Final = 2
"""The exit code for a file with mistakes: nothing was sent."""

_COMMANDS: Final = {
    "pause": "keep the weight as it is until somebody resumes",
    "resume": "go on; after a breach, forgive what was found",
    "promote": "leave out the steps that are left",
    "abort": "end it, and send all requests to the prior version",
    "rollback": "hold the version to be bad, and take it back",
}


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``rollout`` with its commands. Each sets ``run``, a function of the parsed arguments to an exit code."""
    text = "bring a new version to all requests step by step"
    parser = subparsers.add_parser("rollout", help=text, description=f"{text[0].upper()}{text[1:]}.")
    commands = parser.add_subparsers(dest="rollout_command", metavar="COMMAND", required=True)

    start = _command(commands, "start", _start, "start the rollout that a file describes")
    start.add_argument(
        "-f", "--file", type=Path, required=True, metavar="FILE", help="docs/rollouts.md says what's in it"
    )
    _by_somebody(start)

    status = _command(commands, "status", _status, "show where rollouts stand, or all there is to know of one")
    status.add_argument("model", metavar="MODEL", nargs="?", help="default: a line for each model")
    status.add_argument("--json", action="store_true", help="answer in JSON")

    following = _command(
        commands, "watch", _watch, "follow a rollout live; code 0 if it succeeded, 1 if it was taken back"
    )
    following.add_argument("model", metavar="MODEL")
    following.add_argument("--plain", action="store_true", help="a line for each change, also on a terminal")

    for name, meaning in _COMMANDS.items():
        command = _command(commands, name, _order, meaning)
        command.add_argument("model", metavar="MODEL")
        _by_somebody(command)

    past = _command(commands, "history", _history, "show the events of a model's rollouts, a line each")
    past.add_argument("model", metavar="MODEL")
    past.add_argument("--after", type=int, default=0, metavar="SEQ", help="only events after this one")
    past.add_argument("--all", action="store_true", help="every window that was observed on a line of its own")
    past.add_argument("--json", action="store_true", help="answer in JSON")

    lint = _command(commands, "lint", _lint, "read rollout files and tell all mistakes, each with its line and key")
    lint.add_argument("files", type=Path, nargs="+", metavar="FILE")


def _command(
    commands: Subparsers, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    if name != "lint":
        config_option(parser)
    parser.set_defaults(run=_run, rollout_run=function)
    return parser


def _by_somebody(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the history")
    parser.add_argument("--who", metavar="NAME", help="who says so, for the history (default: your login name)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its first line is the token (default: what the settings name)"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def _run(args: argparse.Namespace) -> int:
    """Returns what the command does, or 1 after one line on stderr."""
    command: Callable[[argparse.Namespace], int] = args.rollout_run
    write_whatever_happens()
    try:
        code = command(args)
        sys.stdout.flush()
    except CommandFailed as error:
        sys.stderr.write(f"holdfast rollout {args.rollout_command}: {clean(str(error))}\n")
        return 1
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _start(args: argparse.Namespace) -> int:
    text = _read(args.file)
    if text is None or _told_faults(args.file, text):
        return WRONG_FILE
    answer = _holdfast(args, args.token_file).post(ROLLOUTS, {"file": text, **_words(args)})
    if args.json:
        return _write_json(answer)
    report = decoded(answer, RolloutReport)
    again = f"\n{clean(report.version)} was rolled back before: {clean(report.rolled_back_before)}"
    return _write(
        f"{clean(report.rollout)} is started: {clean(report.model)} {clean(report.prior)} → {clean(report.version)}; "
        f"`holdfast rollout watch {clean(report.model)}` shows how it goes"
        + (again if report.rolled_back_before else "")
    )


def _order(args: argparse.Namespace) -> int:
    answer = _holdfast(args, args.token_file).post(rollout_path(args.model, f"/{args.rollout_command}"), _words(args))
    if args.json:
        return _write_json(answer)
    report = decoded(answer, RolloutReport)
    return _write(f"{clean(report.rollout)} is {clean(report.phase)}: {clean(report.reason)}")


def _status(args: argparse.Namespace) -> int:
    holdfast = _holdfast(args)
    if args.model is None:
        answer = holdfast.get(ROLLOUTS)
        if args.json:
            return _write_json(answer)
        return _write_lines(overview_lines(decoded(answer, Overview)))
    answer = holdfast.get(rollout_path(args.model))
    if args.json:
        return _write_json(answer)
    report = decoded(answer, RolloutReport)
    return _write(*render(report, shutil.get_terminal_size().columns, color=_color()))


def _watch(args: argparse.Namespace) -> int:
    holdfast = Holdfast(settings_of(args.config), timeout_s=watch.ASK_TIMEOUT_S)
    plain = args.plain or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
    return watch.watch(watch.Watch(holdfast, args.model), sys.stdout, plain=plain, color=_color())


def _history(args: argparse.Namespace) -> int:
    found = _pages(_holdfast(args), args.model, args.after)
    if args.json:
        return _write_json(msgspec.json.encode(History(tuple(found), None)))
    lines = history_lines(found, whole=args.all, zone=None)
    first = next(lines, None)
    if first is None:
        since = f" after event {args.after}" if args.after else ""
        return _write(f"nothing has happened to rollouts of '{clean(args.model)}'{since}")
    return _write_lines(chain((first,), lines))


def _lint(args: argparse.Namespace) -> int:
    """Goes on after a bad file, so that one run tells about all of them."""
    code = 0
    for path in args.files:
        text = _read(path)
        if text is None or _told_faults(path, text):
            code = WRONG_FILE
            continue
        spec = parse_rollout(text)
        steps = ", ".join(f"{step.set_weight} %" for step in spec.steps if step.set_weight is not None)
        _write(f"{path}: right: {spec} through {steps}")
    return code


def _pages(holdfast: Holdfast, model: str, after: int) -> Iterator[HistoryEvent]:
    following: int | None = after
    while following is not None:
        before = following
        page = decoded(
            holdfast.get(rollout_path(model, f"/history?after={before}&limit={PAGE_EVENTS}")),
            History,
        )
        yield from page.events
        following = page.next
        if following is not None and following <= before:
            raise CommandFailed(f"the answer leads back to event {following}")


def _read(path: Path) -> str | None:
    """The text of a file, or one line on stderr."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"{path}: {error.strerror}\n")
    except UnicodeDecodeError as error:
        sys.stderr.write(f"{path}: not a text file: {error}\n")
    return None


def _told_faults(path: Path, text: str) -> bool:
    """Whether the file has mistakes, told on stderr as compilers do."""
    faults = lint_rollout(text)
    for fault in faults:
        sys.stderr.write(f"{path}: {clean(fault)}\n")
    return bool(faults)


def _holdfast(args: argparse.Namespace, token_file: Path | None = None) -> Holdfast:
    return Holdfast(settings_of(args.config), token_file=token_file)


def _words(args: argparse.Namespace) -> dict[str, str]:
    return {"who": args.who or _login_name(), "why": args.why}


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may know no name for its user
        return f"user {os.getuid()}"


def _color() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(*lines: str) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _write_lines(lines: Iterable[Line]) -> int:
    """On a terminal no line is longer than it is wide; elsewhere they are whole."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        _write(drawn(line, width, color=_color()))
    return 0


def _write_json(answer: bytes) -> int:
    try:
        return _write(msgspec.json.format(answer, indent=2).decode())
    except ValueError as error:
        raise CommandFailed(f"the answer isn't JSON: {error}") from None
