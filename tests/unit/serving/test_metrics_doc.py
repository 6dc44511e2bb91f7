"""docs/metrics.md explains every metric that there is, with its type and labels, and none that there isn't."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from serving import errors

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/metrics.md").read_text()

# In a process of its own: prometheus_client's multiprocess mode is chosen when it is imported, and stays.
LIST_THE_METRICS = """
import json, sys
from pathlib import Path
from serving.metrics import *
open_metrics(Path(sys.argv[1]))
found = {}
owners = [GatewayMetrics(), ProtectionMetrics(), CacheMetrics(), ShadowMetrics(), AdminMetrics(), RolloutMetrics()]
owners += [QualityMetrics(), IncidentMetrics(), TracingMetrics(), ProcessMetrics("gateway")]
for owner in (*owners, ReplicaMetrics("digits", "v1")):
    for metric in vars(owner).values():
        if hasattr(metric, "describe"):
            for family in metric.describe():
                name = f"{family.name}_total" if family.type == "counter" else family.name
                found[name] = [family.type, list(metric._labelnames)]
print(json.dumps(found))
"""


def registered(folder: Path) -> dict[str, list[object]]:
    """Every metric that the processes of a node make: its name, its type and its labels."""
    command = [sys.executable, "-c", LIST_THE_METRICS, str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, list[object]] = json.loads(result.stdout)
    return found


def explained() -> dict[str, list[object]]:
    """The same, as the tables of the page say it."""
    rows = re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \| \w+ \|([^|]*)\|", PAGE, re.MULTILINE)
    return {name: [kind, re.findall(r"`(\w+)`", labels)] for name, kind, labels in rows}


def test_the_page_names_every_metric_with_its_type_and_labels(tmp_path: Path) -> None:
    assert explained() == registered(tmp_path)


def test_no_metric_is_made_where_this_test_does_not_look(tmp_path: Path) -> None:
    source = (ROOT / "serving/metrics.py").read_text()
    assert set(re.findall(r'"(holdfast_\w+)"', source)) == set(registered(tmp_path))


def test_every_metric_in_the_examples_exists() -> None:
    named = re.findall(r"holdfast_\w+", "".join(re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= explained().keys()


def test_every_outcome_in_the_list_is_one() -> None:
    codes = {error.code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "code")}
    outcomes = PAGE.split("Outcomes, as in")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", outcomes))
    assert {"ok", "degraded", "cancelled"} <= named
    assert named <= codes | {"ok", "degraded", "cancelled"}
