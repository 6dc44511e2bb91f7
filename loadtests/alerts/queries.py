"""The queries of a dashboard, with its variables as Grafana would fill them in. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

_FILLED: Final = {"$__rate_interval": "30s", "$__range": "5m", "$job": "holdfast", "$model": ".+"}
_OF_VARIABLE: Final = re.compile(r"label_values\((.*), *(\w+)\)$")


class Query(NamedTuple):
    """One of a panel, or what fills a variable of the dashboard in (then the label that it takes)."""

    panel: str
    text: str
    label: str = ""

    @property
    def filled(self) -> str:
        """Without variables. Raises `ValueError` for one that isn't known here."""
        text = self.text
        for name, value in _FILLED.items():
            text = text.replace(name, value)
        if "$" in text:
            raise ValueError(f"{self.panel}: an unknown variable in {text}")
        return text


def queries_of(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = _OF_VARIABLE.match(variable["query"])
            if found is None:
                raise ValueError(f"variable {variable['name']}: {variable['query']}")
            yield Query(f"variable {variable['name']}", found[1], found[2])
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"])
