"""Writes the dashboards beside it: `python -m deploy.grafana`.

A test compares them with what this would write. Every query is a real one: `make alerts` runs each against a Prometheus
that scrapes a running Holdfast.
"""

from __future__ import annotations

import sys

from deploy.grafana.files import write

if __name__ == "__main__":
    sys.exit(write())
