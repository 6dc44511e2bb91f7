"""A runbook for every alert, of one form; what stands in it parses, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.promql import selectors
from tests.unit.deploy.deployed import RUNBOOKS, alerts, complaints, known_series

NAMES = sorted({alert.name for alert in alerts()})
PAGES = [*NAMES, "README"]
TEXTS = {name: (RUNBOOKS / f"{name}.md").read_text() for name in PAGES}
KNOWN = known_series()
QUERIES = [(name, query) for name in PAGES for query in re.findall(r"(?<![\w-])q '([^'\n]+)'", TEXTS[name])]
BLOCKS = [(name, block) for name in PAGES for block in re.findall(r"```sh\n(.*?)```", TEXTS[name], re.DOTALL)]


def test_there_is_one_for_each_alert_and_no_other() -> None:
    assert sorted(path.stem for path in RUNBOOKS.glob("Holdfast*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_says_what_it_means_how_to_see_it_what_to_do_and_when_it_is_over(name: str) -> None:
    heads = re.findall(r"^## (.*)$", TEXTS[name], re.MULTILINE)
    assert heads[:2] == ["What it means", "Look"]
    assert heads[2] in ("Causes, the likeliest first", "What to do")
    assert heads[3:] == ["Over when"]
    severities = {alert.labels["severity"] for alert in alerts() if alert.name == name}
    said = TEXTS[name].split("Severity: ")[1].split(". How")[0]
    assert severities == set(re.findall(r"\b(page|ticket|info)\b", said))


@pytest.mark.parametrize("name", NAMES)
def test_the_index_has_it_with_its_severities(name: str) -> None:
    row = next(line for line in TEXTS["README"].splitlines() if line.startswith(f"| [{name}]({name}.md)"))
    severities = {alert.labels["severity"] for alert in alerts() if alert.name == name}
    assert severities == set(re.findall(r"page|ticket|info", row.split("|")[2]))


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", TEXTS[name])
    assert [link for link in links if not (RUNBOOKS / link).exists()] == []


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=lambda each: each.splitlines()[0][:40])
def test_a_shell_block_parses(name: str, block: str) -> None:
    words = re.sub(r"^ {3}", "", block, flags=re.MULTILINE)
    result = subprocess.run(["bash", "-n"], input=words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_a_query_names_only_metrics_and_labels_that_there_are(name: str, query: str) -> None:
    assert list(selectors(query))
    assert list(complaints(query, KNOWN)) == []
