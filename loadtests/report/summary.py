"""The summary of one run in Markdown. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadtests.report import about
from loadtests.report.figures import Figures
from loadtests.report.record import Record
from loadtests.report.tables import Table, tables

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def escaped(value: object) -> str:
    """Text in one line that Markdown takes for nothing else, in a table neither."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    """Words to the left, figures to the right. The cells are Markdown already."""
    rule = ["---" if place < words else "---:" for place in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def render(record: Record, figures: Figures) -> str:
    """The whole file."""
    parts = [
        f"# {about.verdict(record)}: {escaped(record.title)}\n",
        f"{about.promises(record)}.\n",
        _promises(record),
        _missing(record),
        f"{escaped(about.what(record))}\n" if about.what(record) else "",
        _again(record),
        _facts(record),
        *(_table(each) for each in tables(figures)),
    ]
    return "\n".join(part for part in parts if part)


def _promises(record: Record) -> str:
    if not record.verdicts:
        return ""
    rows = [
        ("held" if each.held else "**not held**", escaped(each.promise), escaped(each.seen)) for each in record.verdicts
    ]
    return markdown_table(("", "promise", "seen"), rows, words=3)


def _missing(record: Record) -> str:
    return f"**Not all is there:** {escaped('; '.join(record.missing))}\n" if record.missing else ""


def _again(record: Record) -> str:
    """A block whose fence is longer than any row of backticks in it."""
    commands = [" ".join(command.split()) for command in about.commands(record)]
    if not commands:
        return ""
    longest = max((len(run) for command in commands for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join(["The same again:\n", f"{fence}sh", *commands, f"{fence}\n"])


def _facts(record: Record) -> str:
    lines = [
        f"- {title}: {escaped(', '.join(f'{name} {value}' for name, value in pairs))}"
        for title, pairs in (
            ("Run", about.when(record)),
            ("Versions", about.pairs(record.versions)),
            ("Machine", about.pairs(record.machine)),
        )
        if pairs
    ]
    return "\n".join(lines) + "\n" if lines else ""


def _table(each: Table) -> str:
    rows = [[escaped(value) for value in row] for row in each.rows]
    parts = [f"## {each.title}\n", f"{each.note}\n" if each.note else ""]
    parts.append(markdown_table(each.header, rows, words=each.words))
    parts.append(f"{each.left_out} more are not listed.\n" if each.left_out else "")
    return "\n".join(part for part in parts if part)
