"""YAML as plain data, without what PyYAML lets through: doubled keys, and errors that aren't YAML's. Pure.

Not here: what the data mean (``serving.settings``, ``serving.rollout.file``).
"""

from __future__ import annotations

from typing import Any, Final

import yaml

_MERGE: Final = "tag:yaml.org,2002:merge"


class NotPlain(Exception):
    """A value that isn't what its tag says, or a key that stands there twice. The text names the line and the key."""


def read_yaml(text: str) -> Any:
    """What the text says. Raises ``NotPlain`` and ``yaml.YAMLError``."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _check(root)
        return plain(root)
    except RecursionError:
        raise NotPlain("nested too deeply") from None
    except ValueError as error:
        raise NotPlain(str(error)) from None


def plain(node: yaml.Node) -> Any:
    """The value of a node as YAML means it: ``5`` a number, ``'5'`` text.

    Raises ``ValueError`` if it isn't what its tag says, ``yaml.YAMLError`` and ``RecursionError``.
    """
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except (LookupError, AttributeError, TypeError, ArithmeticError):  # PyYAML's own, of `!!int ''` or `!!bool maybe`
        raise ValueError("it isn't what its tag says") from None


def line_of(mark: Any) -> int:
    """The line of a mark as people count them; 1 if there is none."""
    return 1 if mark is None else mark.line + 1


def _check(root: yaml.Node) -> None:
    """Raises ``NotPlain`` of the first node that nobody can have meant."""
    ahead, seen = [(root, "")], set[int]()
    while ahead:
        node, key = ahead.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            inside = _entries(node, key)
        elif isinstance(node, yaml.SequenceNode):
            inside = [(entry, f"{key}[{index}]") for index, entry in enumerate(node.value)]
        else:
            _check_scalar(node, key)
            continue
        ahead += reversed(inside)


def _entries(node: yaml.MappingNode, key: str) -> list[tuple[yaml.Node, str]]:
    found: list[tuple[yaml.Node, str]] = []
    names = set[tuple[str, str]]()
    for key_node, value_node in node.value:
        place = key
        if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _MERGE:
            place = f"{key}.{key_node.value}" if key else key_node.value
            _check_scalar(key_node, place)
            if (key_node.tag, key_node.value) in names:
                raise NotPlain(f"line {line_of(key_node.start_mark)}: {place}: stands there twice")
            names.add((key_node.tag, key_node.value))
        found.append((value_node, place))
    return found


def _check_scalar(node: yaml.Node, key: str) -> None:
    try:
        plain(node)
    except ValueError as error:
        where = f"line {line_of(node.start_mark)}: {key}" if key else f"line {line_of(node.start_mark)}"
        raise NotPlain(f"{where}: '{node.value[:100]}': {error}") from None
