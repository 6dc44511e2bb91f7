"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.report import index, page, summary
from loadtests.report.errors import RecordError
from loadtests.report.figures import figures
from loadtests.report.index import Entry
from loadtests.report.record import read

REPORT, SUMMARY, INDEX = "report.html", "summary.md", "index.html"


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all was written, whatever the verdicts are; 2 when a record couldn't be read or a file not be written."""
    options = _parser().parse_args(argv)
    folders: list[Path] = options.folders
    try:
        if len(folders) == 1:
            write(folders[0], options.out or folders[0] / REPORT)
            return 0
        return _many(folders, options.out or _parent(folders) / INDEX)
    except (RecordError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2


def write(folder: Path, out: Path, *, relative_to: Path | None = None) -> Entry:
    """The page at `out`, the summary beside it, and the run's row in an index."""
    record = read(folder)
    found = figures(record.samples, record.faults)
    _save(out, page.render(record, found))
    name = SUMMARY if out.name == REPORT else f"{out.stem}.md"
    _save(out.with_name(name), summary.render(record, found))
    return index.entry(record, found, page=os.path.relpath(out, relative_to or out.parent))


def _many(folders: Sequence[Path], out: Path) -> int:
    """A record that can't be read has its row as well: it must not go unnoticed."""
    entries = []
    bad = 0
    for folder in folders:
        try:
            entries.append(write(folder, folder / REPORT, relative_to=out.parent))
        except RecordError as error:
            bad += 1
            print(f"report: {error}", file=sys.stderr)
            entries.append(index.unread(folder.name, str(error)))
    _save(out, index.render(entries))
    _save(out.with_suffix(".md"), index.markdown(entries))
    return 2 if bad else 0


def _save(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="replace")
    print(path)


def _parent(folders: Sequence[Path]) -> Path:
    """The folder that all of them are in."""
    return Path(os.path.commonpath([folder.resolve().parent for folder in folders]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.report",
        description="Makes a page and a summary of each run's record, and an index if there are several.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what a run left behind")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where the page goes (FOLDER/{REPORT}), or the index of several (their folder's {INDEX})",
    )
    return parser
