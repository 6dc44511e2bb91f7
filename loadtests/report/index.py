"""Many runs in one table, as a page and in Markdown. Pure, but for the style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from loadtests.report import about, texts
from loadtests.report.figures import CALM, DURING, Figures
from loadtests.report.markup import Markup, tag
from loadtests.report.page import document
from loadtests.report.record import Record
from loadtests.report.summary import escaped, markdown_table

_HEADER = (
    "scenario", "verdict", "promises", "seed", "requests", "errors", "wrong", "degraded", "shed", "p99 calm",
    "p99 in faults",
)  # fmt: skip
UNREAD = "Not read"
_CLASSES = {about.HELD: "held", about.NOT_HELD: "failed", about.NO_VERDICT: "unknown", UNREAD: "failed"}
_SIGNS = {about.HELD: "\u2713", about.NOT_HELD: "\u2716", about.NO_VERDICT: "?", UNREAD: "\u2716"}


@dataclass(frozen=True)
class Entry:
    """A run's row. A record that couldn't be read has nothing but a name and the reason."""

    title: str
    name: str
    page: str
    """Where its report is, relative to the index."""
    word: str = about.NO_VERDICT
    cells: Sequence[str] = ()
    reasons: Sequence[str] = ()


def entry(record: Record, figures: Figures, *, page: str) -> Entry:
    """The promises that weren't kept are told in the table, each with what was seen."""
    counts = figures.counts
    kept = sum(each.held for each in record.verdicts)
    cells = (
        f"{kept}/{len(record.verdicts)}",
        record.seed,
        *(texts.count(value) for value in (figures.requests, counts["error"], counts["wrong"])),
        texts.share(counts["degraded"], figures.answers),
        texts.share(counts["shed"], figures.requests),
        *(texts.milliseconds(figures.p99(phase)) for phase in (CALM, DURING)),
    )
    reasons = [f"{each.promise}: {each.seen}" for each in record.verdicts if not each.held]
    return Entry(record.title, record.name, page, about.verdict(record), cells, reasons)


def unread(folder: str, reason: str) -> Entry:
    return Entry(folder, "", "", UNREAD, ("",) * (len(_HEADER) - 2), [reason])


def headline(entries: Sequence[Entry]) -> str:
    held = sum(each.word == about.HELD for each in entries)
    return f"{held} of {texts.some(len(entries), 'run')} held"


def render(entries: Sequence[Entry]) -> str:
    """The page."""
    whole = all(each.word == about.HELD for each in entries)
    head = tag("tr", (tag("th", name, class_="figure" if n > 2 else "word") for n, name in enumerate(_HEADER)))
    return document(
        headline(entries),
        [
            tag(
                "header",
                tag("span", "\u2713" if whole else "\u2716", class_="mark", aria_hidden="true"),
                tag("div", tag("h1", headline(entries)), tag("p", "Chaos runs, each with its own report")),
                class_=f"verdict {'held' if whole else 'failed'}",
            ),
            tag(
                "section",
                tag(
                    "div",
                    tag("table", tag("thead", head), tag("tbody", (_row(each) for each in entries)), class_="index"),
                    class_="scroll",
                ),
            ),
        ],
    )


def _row(each: Entry) -> Markup:
    name = tag("a", each.title, href=quote(each.page)) if each.page else each.title
    small = tag("small", each.name) if each.name not in ("", each.title) else None
    reasons = tag("ul", (tag("li", reason) for reason in each.reasons)) if each.reasons else None
    verdict = tag("span", f"{_SIGNS[each.word]} {each.word}", class_=f"badge {_CLASSES[each.word]}")
    cells = [
        tag("td", value, class_=f"{'word' if n == 0 else 'figure'}{' nought' if value in ('0', '0 %') else ''}")
        for n, value in enumerate(each.cells)
    ]
    return tag("tr", tag("td", name, small, reasons, class_="word"), tag("td", verdict, class_="word"), cells)


def markdown(entries: Sequence[Entry]) -> str:
    rows = []
    for each in entries:
        name = f"[{escaped(each.title)}]({quote(each.page)})" if each.page else escaped(each.title)
        name += f" ({escaped(each.name)})" if each.name not in ("", each.title) else ""
        reasons = "".join(f"<br>{escaped(reason)}" for reason in each.reasons)
        word = each.word if each.word == about.HELD else f"**{each.word}**"
        rows.append((name + reasons, word, *(escaped(cell) for cell in each.cells)))
    return f"# {headline(entries)}\n\n{markdown_table(_HEADER, rows, words=3)}"
