"""What can be known of the page's files without a browser: they are small, whole, safe and accessible, and show it all.

Not here: what a browser makes of them (``make page``).
"""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from serving.admin.bodies import CommandRollout
from serving.admin.page import routes
from serving.admin.routes import COMMANDS
from serving.live import snapshot as live
from serving.rollout import report
from serving.rollout.evidence import Finding, VariantCounts
from serving.rollout.state import Passage, Phase

FOLDER = Path(routes.__file__).with_name("assets")
FILES = sorted(FOLDER.iterdir())
MODULES = {file.name: file.read_text() for file in FILES if file.suffix == ".js"}
SCRIPT = "\n".join(MODULES.values())
CODE = re.sub(r"^\s*(//|/\*\*|import ).*$", "", SCRIPT, flags=re.MULTILINE)
"""Without comments and imports."""
STYLE = (FOLDER / "app.css").read_text()
MARKUP = (FOLDER / "index.html").read_text()
MAX_BYTES = 80 << 10


class Element:
    def __init__(self, tag: str, attributes: dict[str, str | None], within: list[str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.within = within
        self.text = ""

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""


class Page(HTMLParser):
    EMPTY = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(MARKUP)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), [one.tag for one in self.open])
        self.elements.append(element)
        if tag not in self.EMPTY:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), [one.tag for one in self.open]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"{tag} ends where another element is open"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


PAGE = Page()
IDS = [element["id"] for element in PAGE.elements if "id" in element.attributes]


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in FILES) < MAX_BYTES


def test_every_file_is_of_a_known_type_and_asked_for_by_the_page() -> None:
    asked = {element["href"] or element["src"] for element in PAGE.all("link", "script", "img")}
    imported = {f"/admin/{name}" for name in re.findall(r'from "\./([^"]+)"', SCRIPT)}
    assert {file.suffix[1:] for file in FILES} == set(routes.TYPES)
    assert {f"/admin/{file.name}" for file in FILES} == asked | imported | {"/admin/index.html"}


def test_modules_import_each_other_and_nothing_else() -> None:
    for name, source in MODULES.items():
        assert set(re.findall(r'from "\./([^"]+)"', source)) <= MODULES.keys() - {name}
        for names, other in re.findall(r'^import \{([^}]+)\} from "\./([^"]+)";$', source, re.MULTILINE):
            for imported in names.split(","):
                found = rf"^export (async )?(const|function|class) {imported.strip()}\b"
                assert re.search(found, MODULES[other], re.MULTILINE), f"{name}: {imported} isn't in {other}"
                assert len(re.findall(rf"\b{imported.strip()}\b", source)) > 1, f"{name} doesn't use {imported}"


def test_nothing_comes_from_or_goes_to_anywhere_else() -> None:
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", MARKUP + SCRIPT + STYLE))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "@import" not in STYLE
    assert set(re.findall(r"url\(([^)]+)\)", STYLE)) == {"#hatch", "#dots"}


@pytest.mark.parametrize(
    "way",
    [
        r"innerHTML", r"outerHTML", r"insertAdjacent", r"document\.write", r"DOMParser", r"createContextualFragment",
        r"setHTML", r"srcdoc", r"\beval\b", r"new Function", r'setTimeout\("', r"javascript:", r"import\(",
        r"localStorage", r"document\.cookie",
    ],
)  # fmt: skip
def test_no_text_becomes_markup_or_code_and_the_token_stays_in_its_tab(way: str) -> None:
    assert re.findall(way, CODE) == []


def test_scripts_and_styles_stand_in_files_only() -> None:
    assert [script.text for script in PAGE.all("script")] == [""]
    assert PAGE.all("style") == []
    named = {name for element in PAGE.elements for name in element.attributes}
    assert [name for name in named if name == "style" or name.startswith("on")] == []
    assert "sessionStorage.setItem(TOKEN" in SCRIPT


def test_ids_are_there_once_and_whoever_names_one_finds_it() -> None:
    assert [name for name, times in Counter(IDS).items() if times > 1] == []
    for attribute in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
        for element in PAGE.elements:
            assert set(element[attribute].split()) <= set(IDS)
    assert {element["href"][1:] for element in PAGE.all("a") if element["href"].startswith("#")} <= set(IDS)
    assert set(re.findall(r'\bpart\("([^"]+)"\)', SCRIPT)) <= set(IDS)


def test_drawings_are_those_that_there_are() -> None:
    symbols = {name.removeprefix("i-") for name in IDS if name.startswith("i-")}
    assert set(re.findall(r'\bicon\("([^"]+)"', SCRIPT)) <= symbols
    assert [name for name in symbols if f'"{name}"' not in SCRIPT] == []


def test_the_page_has_a_language_a_name_landmarks_and_a_way_past_them() -> None:
    [html], [title], [main], [aside] = (PAGE.all(tag) for tag in ("html", "title", "main", "aside"))
    assert html["lang"] == "en"
    assert title.text == "Holdfast"
    assert main["aria-label"]
    assert aside["aria-label"]
    assert (len(PAGE.all("header")), len(PAGE.all("footer"))) == (1, 1)
    first = PAGE.all("a", "button", "input")[0]
    assert (first["class"], first["href"]) == ("skip", f"#{main['id']}")
    [viewport] = [meta["content"] for meta in PAGE.all("meta") if meta["name"] == "viewport"]
    assert "width=device-width" in viewport
    assert "user-scalable" not in viewport
    assert "maximum-scale" not in viewport


def test_what_changes_is_told_politely_and_what_fails_at_once() -> None:
    live_regions = {element["id"]: element for element in PAGE.elements if element["role"] in ("status", "alert")}
    assert live_regions.keys() == {"told", "said", "ask-note", "ask-error"}
    assert live_regions["told"]["aria-live"] == "polite"
    assert live_regions["ask-error"]["role"] == "alert"


def test_every_field_has_a_label_and_every_button_a_name_and_a_type() -> None:
    labelled = {label["for"] for label in PAGE.all("label")}
    assert {field["id"] for field in PAGE.all("input", "textarea")} == labelled
    for button in PAGE.all("button"):
        assert button.text.strip()
        assert button["type"] in ("button", "submit")
    [token] = [field for field in PAGE.all("input") if field["type"] == "password"]
    assert token["autocomplete"] == "off"
    [dialog] = PAGE.all("dialog")
    assert dialog["aria-labelledby"]
    assert dialog["aria-describedby"]
    assert all(image.attributes.get("alt") is not None for image in PAGE.all("img"))


def test_headings_leave_out_no_level() -> None:
    drawn = [int(level) for level in re.findall(r'h\("h([1-6])"', SCRIPT)]
    assert set(drawn) == {1, 2, 3, 4}
    assert drawn.count(1) == 1


def test_the_form_takes_no_more_than_the_api() -> None:
    fields = {field.name: msgspec.inspect.type_info(field.type) for field in msgspec.structs.fields(CommandRollout)}
    for name in ("who", "why"):
        [field] = [one for one in PAGE.all("input", "textarea") if one["name"] == name]
        known = fields[name]
        assert isinstance(known, msgspec.inspect.StrType)
        assert field["maxlength"] == str(known.max_length)
        assert ("required" in field.attributes) == bool(known.min_length)


STRUCTS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "snapshot": (live.Snapshot,),
    "model": (live.ModelView,),
    "version": (live.VersionView,),
    "replica": (live.ReplicaView,),
    "use": (live.FallbackUse, live.ShadowUse),
    "rollout": (report.RolloutReport,),
    "evidence": (report.EvidenceReport,),
    "bake": (report.BakeReport,),
    "finding": (Finding,),
    "passage": (Passage,),
    "had": (VariantCounts,),
    "controller": (report.ControllerReport,),
    "gateways": (live.Gateways,),
    "holdfast": (live.Holdfast,),
    "admin": (live.Admin,),
    "series": (live.Series,),
}
NOT_SHOWN: dict[type[msgspec.Struct], set[str]] = {
    live.ModelView: {"other"},  # told by what is missing from the shares
    report.RolloutReport: {"settled", "open"},  # "waits for" says it in words
    Finding: {"value", "threshold"},  # both stand in its text
    Passage: {"step"},  # its weight and its text say which
    VariantCounts: {"repeated"},
}


def fields_of(*structs: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize("name", STRUCTS)
def test_what_the_page_reads_is_told(name: str) -> None:
    read = set(re.findall(rf"(?<![.\w]){name}\.(\w+)", CODE))
    assert read, f"nothing is read of {name}: was it renamed?"
    assert read <= fields_of(*STRUCTS[name])


def test_what_is_told_is_shown() -> None:
    told: list[type[msgspec.Struct]] = [struct for structs in STRUCTS.values() for struct in structs]
    told += [live.BreakerView, live.Waiting, live.LiveEvent, live.Incidents, live.Verdict]
    for struct in told:
        shown = {name for name in fields_of(struct) if re.search(rf"(\.|[{{,] ?|\"){name}\b", CODE)}
        assert fields_of(struct) - NOT_SHOWN.get(struct, set()) <= shown, struct.__name__


def test_every_state_command_and_phase_has_words() -> None:
    for words in (
        *map(get_args, (live.VerdictState, live.BreakerState, live.Role)),
        COMMANDS, [phase.value for phase in Phase],
    ):  # fmt: skip
        for word in words:
            assert re.search(rf'^\s*.*\b"?{word}"?: [\["{{(]', SCRIPT, re.MULTILINE), word


def test_people_choose_dark_or_light_and_how_much_moves() -> None:
    assert "@media (prefers-color-scheme: dark)" in STYLE
    assert "@media (prefers-reduced-motion: reduce)" in STYLE
    assert ":focus-visible" in STYLE
    assert "outline: none" not in STYLE.replace("main:focus { outline: none; }", "")  # main is no control


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", block))


LIGHT, DARK = (colours(block) for block in re.findall(r":root \{([^}]+)\}", STYLE))


def luminance(colour: str) -> float:
    """As in WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(theme: dict[str, str]) -> None:
    on_all = [(text, ground) for text in ("ink", "soft", "accent", "bad") for ground in ("paper", "card", "faint")]
    tinted = [(text, f"{tint}-tint") for tint in ("fine", "degraded", "bad") for text in ("ink", tint)]
    rest = [("fine", "card"), ("degraded", "card"), ("on-accent", "accent"), ("card", "bad"), ("ink", "ok-area"),
            ("ink", "canary-area"), ("soft", "bad-tint"), ("soft", "degraded-tint")]  # fmt: skip
    low = {pair: round(contrast(theme[pair[0]], theme[pair[1]]), 2) for pair in [*on_all, *tinted, *rest]}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_parts_of_a_plot_differ_in_brightness_too(theme: dict[str, str]) -> None:
    stacked = ["ok-line", "degraded-mark", "shed-mark", "errors-area"]
    assert [theme[name] for name in stacked if contrast(theme[name], theme["card"]) < 3] == []
    assert all(theme[one] != theme[other] for one, other in pairwise(stacked))
    assert contrast(theme["p50"], theme["p99"]) > 1.5
    assert contrast(theme["focus"], theme["card"]) >= 3
