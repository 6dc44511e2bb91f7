"""docs/rollouts.md and the rollout file's JSON Schema are what `make docs` would write now, and say everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from serving import rollout_doc
from serving.rollout.file import lint_rollout, parse_rollout
from serving.rollout.spec import Analysis, Bake, BurnRateRule, PauseFor, RolloutSpec, ShadowRule, Slo, Step
from serving.rollout.state import TABLE, Phase

ROOT = Path(__file__).parents[3]
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "": RolloutSpec,
    "steps[]": Step,
    "steps[].pause": PauseFor,
    "analysis": Analysis,
    "analysis.slo": Slo,
    "analysis.slo.burnRates[]": BurnRateRule,
    "analysis.shadow": ShadowRule,
    "bake": Bake,
}


@pytest.mark.parametrize(
    ("document", "arguments"), [("docs/rollouts.md", ()), ("docs/rollout.schema.json", ("--schema",))]
)
def test_the_committed_file_is_what_make_docs_writes(document: str, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "serving.rollout_doc", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert (ROOT / document).read_text() == result.stdout, "run `make docs`"


def test_every_key_of_the_file_is_on_the_page_with_its_meaning() -> None:
    page = rollout_doc.rollout_page()
    for path, struct in STRUCTS.items():
        for field in msgspec.structs.fields(struct):
            place = f"{path}.{field.encode_name}" if path else field.encode_name
            assert f"| `{place}` |" in page or f"### `{place}`" in page, place
    sections = rollout_doc.sections()
    assert {section.path for section in sections} == set(STRUCTS)
    assert [key.path for section in sections for key in section.settings if not key.meaning.endswith(".")] == []


def test_no_cell_breaks_its_table() -> None:
    cells = [cell for section in rollout_doc.sections() for key in section.settings for cell in key]
    assert [cell for cell in cells if "|" in cell or "\n" in cell] == []


def test_the_page_shows_ranges_and_defaults() -> None:
    rows = {key.path: key[1:3] for section in rollout_doc.sections() for key in section.settings}
    assert rows["steps[].setWeight"] == ("integer from 1 to 100", "left out")
    assert rows["analysis.alpha"] == ("number above 0 to 0.5", "`0.01`")
    assert rows["analysis.slo.objective"] == ("number above 0 and under 1", "`0.999`")
    assert rows["bake.duration"] == ("duration", "`10m`")


def test_the_example_on_the_page_is_a_good_file_and_has_every_key_of_the_top_but_one() -> None:
    example = rollout_doc.rollout_page().split("```yaml\n")[1].split("```")[0]
    assert lint_rollout(example) == []
    left_out = {field.encode_name for field in msgspec.structs.fields(RolloutSpec)} - set(yaml.safe_load(example))
    assert left_out == {"stickiness"}


def test_the_diagram_has_every_move_of_the_table_that_leads_somewhere_and_no_other() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+): (.+)$", rollout_doc.diagram(), re.MULTILINE)
    drawn = {(source, name, target) for source, target, names in arrows for name in names.split(", ")}
    moves = {
        (phase.value, kind.__name__, target.value)
        for phase, row in TABLE.items()
        for kind, targets in row.items()
        for target in targets
    }
    assert drawn <= moves
    assert {move for move in moves if move[0] != move[2]} <= drawn
    assert {source for source, _, _ in drawn} | {target for _, _, target in drawn} == {phase.value for phase in Phase}


def test_every_finding_and_phase_that_a_person_reads_is_explained() -> None:
    page = rollout_doc.rollout_page()
    for word in ("relative", "burn_rate", "validity", "agreement", "ready", "version"):
        assert f"**{word}**" in page


@pytest.mark.parametrize(
    "text",
    [
        "model: a\nversion: b\n",
        "model: a\nversion: b\nsteps: []\n",
        "model: a\nversion: b\nsteps: [{setWeight: 5, pause: {}}]\n",
        "model: a\nversion: b\nsteps: [{setWeight: 100}]\nanalysis: {alpha: 2}\n",
        "model: a\nversion: b\nsteps: [{setWeight: 100}]\nbake: {duration: 10}\n",
        "model: a\nversion: b\nsteps: [{setWeight: 100}]\nnonsense: 1\n",
    ],
)
def test_what_the_schema_refuses_lint_refuses(text: str) -> None:
    validators = pytest.importorskip("jsonschema")
    with pytest.raises(validators.ValidationError):
        validators.validate(yaml.safe_load(text), json.loads(rollout_doc.schema_text()))
    assert lint_rollout(text)


def test_the_schema_takes_a_good_file() -> None:
    validators = pytest.importorskip("jsonschema")
    parse_rollout(rollout_doc.EXAMPLE)
    validators.validate(yaml.safe_load(rollout_doc.EXAMPLE), json.loads(rollout_doc.schema_text()))
