"""docs/scenarios.md is what `make docs` would write now, and leaves no promise out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.chaos import doc, library
from loadtests.chaos.durations import Seconds
from loadtests.chaos.matrix import LINES
from loadtests.chaos.spec import Flat, Must

ROOT = Path(__file__).parents[3]


def test_the_committed_file_is_what_make_docs_writes() -> None:
    command = [sys.executable, "-m", "loadtests.chaos.doc"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs/scenarios.md").read_text() == result.stdout, "run `make docs`"


def test_every_line_of_the_matrix_and_every_scenario_is_on_the_page() -> None:
    page = doc.page(library.everything())
    assert all(f"\n| {line} | `" in page for line in LINES)
    assert all(f"\n| `{name}` | " in page for name in library.names())


@pytest.mark.parametrize(
    ("must", "said"),
    [
        ({}, "nobody notices"),
        ({"errors": "in_flight"}, "at most what was under way is lost"),
        ({"errors": None, "shed_max": None}, "errors are allowed; requests may be shed"),
        ({"errors": 2, "wrong": 1}, "at most 2 errors; at most 1 wrong answers"),
        ({"degraded_max": 0.0}, "none degraded"),
        ({"degraded_max": 0.02, "p99_max": Seconds(0.5)}, "at most 2 % degraded; p99 at most 500 ms"),
        ({"back_within": Seconds(8)}, "a replacement within 8 s"),
        ({"goodput_min": 0.9}, "goodput at least 90 % of the peak"),
        ({"breaker_opens": True, "ejects": True, "ends_as": "Aborted"}, "the rollout ends as Aborted"),
        ({"cancelled_computed_max": 0.5}, "50 % of the cancelled"),
        ({"static_max": 0.0, "sticky_moves_max": 0}, "nobody gets the static answer; sticky keys keep their version"),
        ({"failed_attempts_max": 400}, "at most 400 attempts in vain"),
        ({"flat": Flat(memory=7)}, "no kind of process grows by more than 7 MB"),
    ],
)
def test_promises_are_told_in_words(must: dict[str, Any], said: str) -> None:
    assert said in doc.promised(Must(**must))


def test_no_promise_is_forgotten() -> None:
    """Whatever a scenario may promise changes what is said, but for what only shows that a fault did something."""
    silent = {"met_by", "shed_min", "degraded_min"}
    values: dict[str, Any] = {
        "errors": None,
        "ends_as": "Aborted",
        "flat": Flat(),
        "breaker_opens": True,
        "ejects": True,
    }
    for name in set(Must.__struct_fields__) - silent:
        assert doc.promised(Must(**{name: values.get(name, 0.5)})) != doc.promised(Must()), name
