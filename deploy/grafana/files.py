"""The files that the dashboards are written to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploy.grafana.model import MODEL
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.protection import PROTECTION
from deploy.grafana.rollouts import ROLLOUTS
from deploy.grafana.shadows import SHADOWS

FOLDER: Final = Path(__file__).parent

DASHBOARDS: Final[Mapping[str, dict[str, Any]]] = {
    "overview.json": OVERVIEW,
    "model.json": MODEL,
    "protection.json": PROTECTION,
    "rollouts.json": ROLLOUTS,
    "shadows.json": SHADOWS,
}


def text_of(dashboard: Mapping[str, Any]) -> str:
    return json.dumps(dashboard, indent=1) + "\n"


def write() -> int:
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / name).write_text(text_of(dashboard))
    return 0
