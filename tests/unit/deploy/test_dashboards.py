"""Dashboards are what their generator writes, and every query in them names what there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from deploy.grafana.files import DASHBOARDS, FOLDER, text_of
from loadtests.alerts.queries import queries_of
from tests.unit.deploy.deployed import complaints, known_series

KNOWN = known_series()
CORE = {"row", "stat", "timeseries", "state-timeline"}
QUERIES = [(name, query) for name, document in DASHBOARDS.items() for query in queries_of(document)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_is_what_the_generator_writes(name: str) -> None:
    assert (FOLDER / name).read_text() == text_of(DASHBOARDS[name])


def test_there_is_no_other_file() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == DASHBOARDS.keys()


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=lambda each: getattr(each, "panel", each))
def test_a_query_names_only_metrics_and_labels_that_there_are(name: str, query: Any) -> None:
    assert list(complaints(query.filled, KNOWN)) == []
    assert query.filled.count("(") == query.filled.count(")")


@pytest.mark.parametrize("document", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_are_of_grafanas_core_say_where_they_ask_and_do_not_overlap(document: Mapping[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        assert panel["type"] in CORE
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


def test_every_dashboard_has_a_name_of_its_own_and_all_lead_to_each_other() -> None:
    documents = list(DASHBOARDS.values())
    assert len({document["uid"] for document in documents}) == len({document["title"] for document in documents}) == 5
    assert all(document["links"][0]["tags"] == document["tags"] == ["holdfast"] for document in documents)


def test_what_is_written_is_json() -> None:
    assert all(json.loads(text_of(document)) == document for document in DASHBOARDS.values())
