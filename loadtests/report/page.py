"""The page of one run. Pure, but for its style and script, which are files beside this one."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources

from loadtests.report import about, paper, timeline
from loadtests.report.bins import binned
from loadtests.report.figures import Figures
from loadtests.report.labels import shorten
from loadtests.report.markup import Markup, tag, text
from loadtests.report.record import Record
from loadtests.report.tables import Table, tables

_MARKS = {about.HELD: ("\u2713", "held"), about.NOT_HELD: ("\u2716", "failed"), about.NO_VERDICT: ("?", "unknown")}


def render(record: Record, figures: Figures) -> str:
    """The whole page."""
    return document(
        f"{about.verdict(record)}: {record.title}",
        [
            _verdict(record),
            _missing(record),
            _tiles(figures) if record.samples else None,
            _done(record),
            _timeline(record, figures),
            [table(each) for each in tables(figures)],
        ],
        script=resources.files(__package__).joinpath("hover.js").read_text(encoding="utf-8"),
    )


def document(title: str, body: object, *, script: str = "") -> str:
    """A page that loads nothing. No other script than this one would run, even if one got past the escaping."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    scripts = tag("script", Markup(script)) if script else None
    whole = tag("html", head, tag("body", tag("main", body), scripts), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _verdict(record: Record) -> Markup:
    word = about.verdict(record)
    mark, class_ = _MARKS[word]
    promises = [_promise(each.promise, each.seen, held=each.held) for each in record.verdicts]
    return tag(
        "header",
        tag("span", mark, class_="mark", aria_hidden="true"),
        tag("div", tag("h1", word), tag("p", record.title, class_="scenario"), tag("p", about.promises(record))),
        tag("ul", promises, class_="promises") if promises else None,
        class_=f"verdict {class_}",
    )


def _promise(promise: str, seen: str, *, held: bool) -> Markup:
    mark = tag("span", "\u2713" if held else "\u2716", class_="mark", title="held" if held else "not held")
    figure = tag("span", seen, class_="seen")
    return tag("li", mark, tag("span", promise, class_="promise"), figure, class_="held" if held else "failed")


def _missing(record: Record) -> Markup | None:
    if not record.missing:
        return None
    return tag("section", tag("strong", "Not all is there: "), "; ".join(record.missing), class_="missing")


def _tiles(figures: Figures) -> Markup:
    def tile(figure: str, name: str, beside: str, colour: str) -> Markup:
        bad = f"tile bad t-{colour}" if colour and figure != "0" else "tile"
        return tag("div", tag("b", figure), tag("span", name), tag("small", beside), class_=bad)

    return tag("section", (tile(*each) for each in about.key_figures(figures)), class_="tiles")


def _done(record: Record) -> Markup:
    commands = about.commands(record)
    return tag(
        "section",
        tag("h2", "What was done"),
        tag("p", about.what(record), class_="what") if about.what(record) else None,
        (tag("h3", "The same again"), tag("pre", tag("code", "\n".join(commands)))) if commands else None,
        tag(
            "div",
            _list("Run", about.when(record)),
            _list("Versions", about.pairs(record.versions)),
            _list("Machine", about.pairs(record.machine)),
            class_="facts",
        ),
    )


def _list(title: str, pairs: Sequence[tuple[str, str]]) -> Markup | None:
    if not pairs:
        return None
    entries = [tag("div", tag("dt", name), tag("dd", shorten(value, 400, 1))) for name, value in pairs]
    return tag("div", tag("h3", title), tag("dl", entries))


def _timeline(record: Record, figures: Figures) -> Markup:
    if not record.samples and not record.series and not record.faults:
        return tag("section", tag("h2", "Timeline"), tag("p", "Nothing was recorded."))
    bins = binned(record.samples, record.seconds)
    data = json.dumps(timeline.values(record, figures, bins), separators=(",", ":"))
    # Inside a script element nothing is unescaped, and only this could end it.
    data = data.replace("<", "\\u003c")
    return tag(
        "section",
        tag("h2", "Timeline"),
        _empty(record),
        timeline.draw(record, figures, bins, paper.wide(record.seconds)),
        timeline.draw(record, figures, bins, paper.phone(record.seconds)),
        tag("div", class_="readout", hidden="hidden"),
        tag("script", Markup(data), type="application/json", class_="values"),
        class_="chart",
    )


def _empty(record: Record) -> Markup | None:
    return None if record.samples else tag("p", "No request was recorded.", class_="note")


def table(each: Table) -> Markup:
    def cell(name: str, place: int, value: str) -> Markup:
        nought = " nought" if value in ("0", "0 %") and place >= each.words else ""
        return tag(name, value, class_=f"{'word' if place < each.words else 'figure'}{nought}")

    head = tag("tr", (cell("th", place, value) for place, value in enumerate(each.header)))
    rows = [tag("tr", (cell("td", place, value) for place, value in enumerate(row))) for row in each.rows]
    if each.title == "Outcomes":
        rows = [_swatched(row, outcome[0]) for row, outcome in zip(rows, each.rows, strict=True)]
    return tag(
        "section",
        tag("h2", each.title),
        tag("p", each.note, class_="note") if each.note else None,
        tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll"),
        tag("p", f"{each.left_out} more are not listed.", class_="note") if each.left_out else None,
    )


def _swatched(row: Markup, outcome: str) -> Markup:
    """The row of an outcome, with the square of its colour before its name."""
    name = text(outcome)
    square = tag("i", class_=f"square o-{name}")
    return Markup(row.replace(f">{name}<", f">{square}{name}<", 1))
