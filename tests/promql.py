"""Just enough of PromQL to see which metrics and labels an expression names. It isn't evaluated here.

Prometheus itself does that in `make alerts`, where it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

STRING = r'"(?:[^"\\]|\\.)*"'
MATCHER = re.compile(rf"\s*(\w+)\s*(=~|!~|!=|=)\s*({STRING})\s*,?")
GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(rf"([a-zA-Z_:][\w:]*)\s*(\{{(?:[^}}\"]|{STRING})*\}})?(\s*\()?")
WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "Inf", "NaN"})


class Matcher(NamedTuple):
    label: str
    operator: str
    value: str

    @property
    def values(self) -> list[str]:
        """What an alternation of plain words names; nothing of a pattern."""
        words = self.value.split("|")
        return words if all(re.fullmatch(r"\w+", word) for word in words) else []


class Selector(NamedTuple):
    metric: str
    matchers: tuple[Matcher, ...]


def selectors(expression: str) -> Iterator[Selector]:
    """Every place where an expression takes samples of a metric."""
    plain = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", GROUPING.sub(" ", expression))
    plain = re.sub(r"(?<![\w:])\d[\w.]*", " ", _without_strings_outside_of_braces(plain))
    for found in SELECTOR.finditer(plain):
        name, braces, call = found.groups()
        if call is None and name not in WORDS:
            yield Selector(name, tuple(_matchers(braces or "{}")))


def grouping_labels(expression: str) -> set[str]:
    """The labels that expressions are grouped or joined by."""
    return {name.strip() for _, names in GROUPING.findall(expression) for name in names.split(",") if name.strip()}


def _matchers(braces: str) -> Iterator[Matcher]:
    for label, operator, value in MATCHER.findall(braces[1:-1]):
        yield Matcher(label, operator, value[1:-1])


def _without_strings_outside_of_braces(expression: str) -> str:
    parts = re.split(rf"(\{{(?:[^}}\"]|{STRING})*\}})", expression)
    return "".join(part if part.startswith("{") else re.sub(STRING, " ", part) for part in parts)
