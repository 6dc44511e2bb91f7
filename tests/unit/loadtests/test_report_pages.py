import csv
import json
import re
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from loadtests.report import cli, faults, page, paper, summary
from loadtests.report.errors import RecordError
from loadtests.report.figures import figures
from loadtests.report.markup import join, tag, text
from loadtests.report.record import Fault, Record, read
from tests.unit.loadtests import report_records

EVIL = "</script><script>alert('\u2028')</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Every element that a browser would see, and the text of each script."""

    VOID = frozenset({"meta", "rect", "line", "path", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def classes(self) -> set[str]:
        return {name for _, attributes in self.elements for name in (attributes.get("class") or "").split()}


def made(folder: Path) -> tuple[Record, Page, str]:
    record = read(folder)
    found = figures(record.samples, record.faults)
    return record, Page(page.render(record, found)), summary.render(record, found)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_verdict_comes_first_and_every_promise_has_its_figure(tmp_path: Path) -> None:
    _, html, markdown = made(report_records.write(tmp_path, failing=True))

    assert html.text.index("Not held") < html.text.index("0 client errors") < html.text.index("Timeline")
    assert "41 of 7200" in html.text
    assert markdown.startswith("# Not held: All primary replicas killed, then slow\n\n2 of 4 promises held.")
    assert "| **not held** | 0 client errors | 41 of 7200 |" in markdown
    for each in (html.text, markdown):
        assert "python -m loadtests.chaos run primary-slow --seed 7" in each


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    _, html, _ = made(report_records.write(tmp_path))

    assert not {"link", "img", "iframe", "object", "base", "form"} & {name for name, _ in html.elements}
    assert not [attributes for _, attributes in html.elements if {"src", "href", "action"} & attributes.keys()]
    style = page.document("x", "")
    assert "url(" not in style
    assert "@import" not in style


def test_both_drawings_are_well_formed_and_show_every_panel(tmp_path: Path) -> None:
    record = read(report_records.write(tmp_path))
    html = page.render(record, figures(record.samples, record.faults))
    drawings = re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL)

    assert len(drawings) == 2
    for drawing in drawings:
        words = " ".join(ET.fromstring(drawing).itertext())  # noqa: S314 - made two lines above
        for title in ("Requests per second", "Latency", "Breakers", "Canary weight", "Replicas alive", "Memory"):
            assert title in words


def test_errors_and_wrong_answers_are_marked_only_if_there_are_any(tmp_path: Path) -> None:
    _, good, _ = made(report_records.write(tmp_path / "good"))
    _, bad, _ = made(report_records.write(tmp_path / "bad", failing=True))

    assert {"t-error", "t-wrong"} <= bad.classes()
    assert not {"t-error", "t-wrong"} & good.classes()
    assert "none in 7\u202f200 requests" in good.text


def test_nothing_of_a_record_becomes_markup(tmp_path: Path) -> None:
    folder = report_records.write(tmp_path, seconds=20)
    evil = {"name": EVIL, "title": EVIL, "what": EVIL}
    verdicts = [{"promise": EVIL, "held": False, "seen": EVIL}]
    rewrite(
        folder / "run.json", scenario=evil, seed=EVIL, started=EVIL, machine={EVIL: EVIL}, versions={EVIL: EVIL},
        verdicts=verdicts,
    )  # fmt: skip
    (folder / "faults.json").write_text(
        json.dumps([{"at_s": 3, "until_s": 5, "fault": EVIL, "target": EVIL, "detail": EVIL}])
    )
    series = [{"name": name, "label": EVIL, "unit": EVIL, "values": [0, 1, 2]} for name in ("breaker", EVIL)]
    (folder / "series.json").write_text(json.dumps({"t_s": [0, 1, 2], "series": series}))
    with (folder / "samples.csv").open("a", newline="") as file:
        csv.writer(file).writerow([1, 1, 1.1, 0, EVIL, 200, "ok", EVIL, 0])

    _, html, markdown = made(folder)

    assert "alert(" in html.text
    assert [name for name, _ in html.elements].count("script") == 2
    assert "img" not in {name for name, _ in html.elements}
    assert not [key for _, attributes in html.elements for key in attributes if key.startswith("on")]
    assert not re.search(r"(?<!\\)<(script|img)", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))


def test_the_values_under_the_pointer_are_those_of_the_drawing(tmp_path: Path) -> None:
    _, html, _ = made(report_records.write(tmp_path))
    values = json.loads(html.scripts[0])
    rows = {(group["title"], row["label"]): row["values"] for group in values["groups"] for row in group["rows"]}

    assert {len(each) for each in rows.values()} == {60}
    assert sum(values_[5] for (title, _), values_ in rows.items() if title == "Requests per second") == 120
    assert rows["Breakers", "digits@v1"][20] == 2
    assert [values["faultNames"][number] for number in values["faults"][20]] == ["slow \u00b7 digits@v1"]


@pytest.mark.parametrize("left_out", ["samples.csv", "faults.json", "series.json"])
def test_what_is_missing_is_said_and_the_rest_is_shown(tmp_path: Path, left_out: str) -> None:
    folder = report_records.write(tmp_path)
    (folder / left_out).unlink()

    record, html, markdown = made(folder)

    assert record.missing == [f"{left_out} is not there"]
    assert f"{left_out} is not there" in html.text
    assert "Not all is there" in markdown
    assert "svg" in {name for name, _ in html.elements}


@pytest.mark.parametrize("seconds", [0, 0.5, 1, 16, 700])
def test_a_run_of_any_length_has_a_page(tmp_path: Path, seconds: float) -> None:
    _, html, _ = made(report_records.write(tmp_path, rate=3, seconds=seconds))

    assert "nan" not in json.dumps([attributes.get("d") or "" for _, attributes in html.elements])
    assert "NaN" not in html.scripts[0]


def test_a_record_with_nothing_but_a_run_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")

    _, html, markdown = made(tmp_path)

    assert "No verdict" in html.text
    assert "Nothing was recorded" in html.text
    assert markdown.startswith("# No verdict")


def test_a_run_that_says_it_held_but_broke_a_promise_has_not_held(tmp_path: Path) -> None:
    folder = report_records.write(tmp_path, held=True, verdicts=[{"promise": "p", "held": False, "seen": "1"}])

    assert not read(folder).held


def test_half_a_row_at_the_end_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = report_records.write(tmp_path)
    with (folder / "samples.csv").open("a") as file:
        file.write("59.99,59.9")

    record = read(folder)

    assert len(record.samples) == 7200
    assert record.missing == ["1 of 7201 rows of samples.csv can't be read and are left out"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("run.json", None, "not there"),
        ("run.json", "{", "can't be read"),
        ("run.json", "[]", "not an object"),
        ("faults.json", '[{"fault": "kill"}]', "a fault without a time"),
        ("samples.csv", "a,b\n1,2\n", "no column"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    folder = report_records.write(tmp_path, seconds=1)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)

    with pytest.raises(RecordError, match=complaint) as caught:
        read(folder)

    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_faults_of_a_kind_have_one_label_and_few_lanes() -> None:
    kills = [Fault(5.0 * number, None, "kill_replica", f"digits@v{number % 9}") for number in range(300)]
    slow = [Fault(7.0 * number, 7.0 * number + 3, f"slow_{number % 20}", "redis") for number in range(200)]

    placed = faults.arranged([*kills, *slow], paper.wide(1800.0))

    assert max(lane for _, lane in placed) < faults.LANES_MAX
    assert sum(len(group.faults) for group, _ in placed) == 500
    assert "kill replica \u00d7300" in [group.label for group, _ in placed]


@pytest.mark.parametrize("drawn_on", [paper.wide(60.0), paper.phone(60.0)])
def test_the_label_of_a_fault_at_the_very_end_stays_on_the_paper(drawn_on: paper.Paper) -> None:
    parts, _ = faults.track([Fault(59.9, None, "kill_gateway", "gateway 1")], drawn_on, 0.0)
    label = ET.fromstring(parts[0])  # noqa: S314 - made here

    assert float(label.attrib["x"]) < drawn_on.width - 100


def test_a_long_run_has_a_small_page_in_seconds(tmp_path: Path) -> None:
    folder = report_records.write(tmp_path, rate=20, seconds=1800, failing=True)
    many = [{"at_s": 3.0 * n, "until_s": 3.0 * n + 1, "fault": f"f{n % 30}", "target": f"t{n}"} for n in range(600)]
    (folder / "faults.json").write_text(json.dumps(many))

    began = time.process_time()
    cli.write(folder, folder / "report.html")

    assert time.process_time() - began < 10
    assert (folder / "report.html").stat().st_size < 600_000


def test_one_folder_makes_a_page_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = report_records.write(tmp_path / "run")

    assert cli.main([str(folder)]) == 0
    assert cli.main([str(folder), "--out", str(tmp_path / "elsewhere" / "a.html")]) == 0

    assert {path.name for path in folder.iterdir()} >= {"report.html", "summary.md"}
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"a.html", "a.md"}
    assert str(folder / "report.html") in capsys.readouterr().out


def test_several_folders_make_an_index_that_tells_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = report_records.write(tmp_path / "a run")
    bad = report_records.write(tmp_path / "b", failing=True)

    assert cli.main([str(good), str(bad), str(tmp_path / "nothing")]) == 2

    html = Page((tmp_path / "index.html").read_text())
    markdown = (tmp_path / "index.md").read_text()
    assert [attributes["href"] for name, attributes in html.elements if name == "a"] == [
        "a%20run/report.html",
        "b/report.html",
    ]
    for each in (html.text, markdown):
        assert "1 of 3 runs held" in each
        assert "0 client errors: 41 of 7200" in each
        assert "Not read" in each
    assert capsys.readouterr().err.startswith("report: ")


def test_a_folder_without_a_record_is_one_line_and_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(tmp_path)]) == 2

    assert capsys.readouterr().err == f"report: {tmp_path / 'run.json'}: not there\n"
    assert list(tmp_path.iterdir()) == []


def test_text_is_escaped_once_and_markup_is_left_alone() -> None:
    assert tag("b", "<i>", tag("br"), title='"') == '<b title="&quot;">&lt;i&gt;<br/></b>'
    assert join(["a&", None, [text("b<")]]) == "a&amp;b&lt;"
    assert text("\x00\x1b") == "\ufffd\ufffd"
