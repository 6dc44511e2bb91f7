"""``holdfast incidents``: list what went wrong, show one whole, and send one again to any version.

Not here: what is kept (``serving.incidents``), and how the answers are compared (``serving.incidents.again``).
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from serving.commands.asking import INCIDENTS, Answer, CommandFailed, Holdfast, decoded, reason_of
from serving.commands.options import Subparsers, config_option, settings_of, write_whatever_happens
from serving.commands.terminal import clean, date_and_clock
from serving.incidents.again import LENGTH_HEADER, CantBeSent, Difference, differences, read_outputs, request_of, shown
from serving.incidents.incident import IncidentLine, IncidentPage, IncidentReport, KeptTensor

LIMIT_DEFAULT: Final = 50
FAILED: Final = 2
"""The exit code if there is nothing to show or to compare."""
_PAGE: Final = 1000
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_VALUES_SHOWN: Final = 64


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of sending an incident again; ``now`` is an error's text, ``ok`` or ``degraded``."""

    incident: int
    sent_to: str
    then: str
    now: str
    answered_by: str
    outputs: tuple[Difference, ...]
    same: bool


def add_parser(subparsers: Subparsers) -> None:
    """Adds ``incidents`` with its commands. Each sets ``run``, a function of the parsed arguments to an exit code."""
    text = "requests that failed, or were answered by something else: list, show and send them again"
    parser = subparsers.add_parser("incidents", help=text, description=f"{text[0].upper()}{text[1:]}.")
    commands = parser.add_subparsers(dest="incidents_command", metavar="COMMAND", required=True)

    listing = _command(commands, "list", _list, "list incidents, the newest first")
    listing.add_argument("--model", metavar="NAME")
    listing.add_argument("--version", metavar="NAME")
    listing.add_argument("--outcome", metavar="CODE", help="what the caller got, or what failed, as in docs/metrics.md")
    listing.add_argument("--since", type=_since, metavar="WHEN", help="10m, 2h or 3d ago, or a time: 2026-05-01T12:00")
    listing.add_argument(
        "-n", "--limit", type=_number, default=LIMIT_DEFAULT, metavar="N", help="at most so many (default: %(default)s)"
    )

    one = _command(commands, "show", _show, "show all of one")
    one.add_argument("id", type=_number, metavar="ID")

    text = "send one again and compare; code 0 if the answer is the same, 1 if it isn't, 2 if that can't be said"
    again = _command(commands, "replay", _replay, text)
    again.add_argument("id", type=_number, metavar="ID")
    again.add_argument(
        "--version", metavar="NAME", help="the version to ask (default: the one that it went wrong with)"
    )


def _command(
    commands: Subparsers, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    config_option(parser)
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its first line is the token (default: what the settings name)"
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=_run, incidents_run=function)
    return parser


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _since(text: str) -> float:
    """A moment in wall clock seconds."""
    if (ago := _AGO.fullmatch(text)) is not None:
        return time.time() - float(ago[1]) * _SECONDS[ago[2]]
    return datetime.fromisoformat(text).timestamp()


def _run(args: argparse.Namespace) -> int:
    """Returns what the command does, or 2 after one line on stderr."""
    command: Callable[[argparse.Namespace], int] = args.incidents_run
    write_whatever_happens()
    try:
        return command(args)
    except (CommandFailed, CantBeSent) as error:
        sys.stderr.write(f"holdfast incidents {args.incidents_command}: {clean(str(error))}\n")
        return FAILED


# list


def _list(args: argparse.Namespace) -> int:
    found = tuple(_lines(_holdfast(args), args))
    if args.json:
        return _write_json(found)
    if not found:
        return _write("no such incidents are kept")
    rows = [_columns(line) for line in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    return _write(
        *("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    )


def _lines(holdfast: Holdfast, args: argparse.Namespace) -> Iterator[IncidentLine]:
    before: int | None = None
    left = args.limit
    while left > 0:
        wanted = {
            "model": args.model,
            "version": args.version,
            "outcome": args.outcome,
            "since": args.since,
            "before": before,
            "limit": min(left, _PAGE),
        }
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        page = decoded(holdfast.get_private(f"{INCIDENTS}?{query}"), IncidentPage)
        yield from page.incidents
        left -= len(page.incidents)
        if page.next is None:
            return
        if before is not None and page.next >= before:
            raise CommandFailed(f"the answer leads back to incident {page.next}")
        before = page.next


def _columns(line: IncidentLine) -> list[str]:
    what = line.outcome if line.outcome == line.failure else f"{line.outcome} ({line.failure})"
    texts = [str(line.id), date_and_clock(line.wall, None), _name(line), what, line.rollout or "-"]
    return [clean(text) for text in [*texts, line.request_id or "-", line.fault]]


def _name(line: IncidentLine) -> str:
    return f"{line.model}@{line.version}" if line.version else line.model


# show


def _show(args: argparse.Namespace) -> int:
    incident = _incident(_holdfast(args), args.id)
    return _write_json(incident) if args.json else _write(*map(clean, _description(incident)))


def _description(incident: IncidentReport) -> Iterator[str]:
    yield f"incident {incident.id}, {date_and_clock(incident.wall, None)}"
    why = "" if incident.failure == incident.outcome else f", because of {incident.failure}"
    labelled = [
        ("model", _name(incident)),
        ("outcome", incident.outcome + why),
        ("fault", incident.fault),
        ("answer", incident.answered_by and f"by {incident.answered_by}"),
        ("took", f"{incident.seconds * 1000:.1f} ms, {incident.waited_s * 1000:.1f} ms of them in line"),
        ("request", incident.request_id),
        ("trace", incident.trace_id),
        ("rollout", incident.rollout),
    ]
    for label, text in labelled:
        if text:
            yield f"  {label:8} {text}"
    for attempt in incident.attempts:
        where = f"{attempt.version} {attempt.replica}".rstrip()
        yield f"  attempt  {where}: {attempt.failure} after {attempt.seconds * 1000:.1f} ms: {attempt.fault}"
    for label, tensors in (("input", incident.inputs), ("output", incident.outputs)):
        for tensor in tensors:
            yield f"  {label:8} {tensor.name}  {shown(tensor, _VALUES_SHOWN)}"
    if (body := incident.body) is not None:
        text = f"not kept ({body.left_out})" if body.raw is None else body.raw[:500].decode(errors="replace")
        yield f"  body     {body.size_bytes} bytes: {text}"


# replay


def _replay(args: argparse.Namespace) -> int:
    holdfast = _holdfast(args)
    incident = _incident(holdfast, args.id)
    version = args.version or incident.version or None
    request = request_of(incident, version)
    headers = {"content-type": "application/octet-stream", **request.headers}
    sent_to = f"{incident.model}@{version}" if version else incident.model
    replayed = _compared(incident, holdfast.send(request.path, request.body, headers), sent_to)
    if args.json:
        _write_json(replayed)
    else:
        _write(*map(clean, _told(replayed)))
    return 0 if replayed.same else 1


def _compared(incident: IncidentReport, answer: Answer, sent_to: str) -> Replayed:
    then = f"{incident.outcome}: {incident.fault}" if incident.fault else incident.outcome
    outputs: tuple[Difference, ...] = ()
    if answer.status != 200:
        fault = reason_of(answer.status, answer.body)
        now, same = f"{answer.status}: {fault}", not incident.answered_by and fault == incident.fault
    else:
        outputs = differences(incident.outputs, _outputs(answer))
        now = "ok" if "holdfast-degraded" not in answer.headers else "degraded"
        same = bool(incident.answered_by) and all(output.same for output in outputs)
    return Replayed(
        incident=incident.id,
        sent_to=sent_to,
        then=then,
        now=now,
        answered_by=answer.headers.get("holdfast-version", ""),
        outputs=outputs,
        same=same,
    )


def _outputs(answer: Answer) -> tuple[KeptTensor, ...]:
    try:
        length = answer.headers.get(LENGTH_HEADER)
        return read_outputs(answer.body, None if length is None else int(length))
    except ValueError as error:
        raise CommandFailed(f"the answer isn't one that this command understands: {error}") from None


def _told(replayed: Replayed) -> Iterator[str]:
    yield f"incident {replayed.incident}, sent again to {replayed.sent_to}"
    yield f"  then     {replayed.then}"
    yield f"  now      {replayed.now}" + (f", by {replayed.answered_by}" if replayed.answered_by else "")
    for output in replayed.outputs:
        yield f"  output   {output.output}: {_verdict(output)}"
        if not output.same:
            yield from (
                f"    {label:6} {text}" for label, text in (("then", output.before), ("now", output.after)) if text
            )
    yield "the same as then" if replayed.same else "not the same as then"


def _verdict(output: Difference) -> str:
    if output.same:
        return "the same"
    if output.before is None or output.after is None:
        return "only now" if output.before is None else "only then"
    if not output.rows:
        return "can't be compared"
    apart = "" if output.max_abs is None else f", at most {output.max_abs:.6g} apart"
    return f"{output.changed} of {output.rows} rows changed{apart}"


def _incident(holdfast: Holdfast, number: int) -> IncidentReport:
    return decoded(holdfast.get_private(f"{INCIDENTS}/{number}"), IncidentReport)


def _holdfast(args: argparse.Namespace) -> Holdfast:
    return Holdfast(settings_of(args.config), token_file=args.token_file)


def _write(*lines: str) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _write_json(value: Any) -> int:
    return _write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
