"""The one door through which anything gets into the page: what isn't markup already, is escaped. Pure.

HTML and SVG alike. A record is not trusted: a model may well be named `<script>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

VOID = frozenset({"meta", "br", "rect", "line", "path", "circle", "use", "stop"})
# HTML ends a line of text at more places than XML allows at all; none of these has a meaning in a name.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already. Only this module and files of this package are turned into it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """The value as text that can't become markup."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(_CONTROL.sub("\ufffd", str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. `class_` is `class`, other underscores are hyphens; an attribute that is None is left out."""
    pairs = "".join(
        f' {_attribute(key)}="{text(_short(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{pairs}/>")
    return Markup(f"<{name}{pairs}>{join(children)}</{name}>")


def join(children: object, *, between: str = "") -> Markup:
    """Markup of many, also of lists in lists; None is nothing."""
    if children is None:
        return Markup("")
    if isinstance(children, (list, tuple, Iterator)):
        return Markup(between.join(join(child) for child in children))
    return text(children)


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-") if key != "viewBox" else key


def _short(value: object) -> object:
    """A coordinate with one digit after the point: a picture of a thousand of them stays small."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
