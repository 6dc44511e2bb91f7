"""Which expressions in a ``.pt2`` archive may reach torch, which hands them to a Python evaluator.

Sizes are sums and products of symbols, ``Symbol('s0', integer=True)*2``; guards compare the inputs' sizes,
``L['x'].size()[0] <= 64``. Anything else is refused. Pure.
"""

from __future__ import annotations

import ast
import re
from typing import Final

from models.errors import InvalidArtifact

_ARITHMETIC: Final = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.expr_context,
)  # fmt: skip
_FUNCTION: Final = re.compile(r"[A-Z][A-Za-z]*")
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SIZES: Final = ("size", "stride", "storage_offset")


def check_size(text: str) -> None:
    """Raises ``InvalidArtifact`` if ``text`` isn't an expression of symbolic sizes."""
    if not _is_size(_parse("size", text).body):
        raise InvalidArtifact(f"size '{text}' isn't an expression of sizes")


def check_guard(text: str) -> None:
    """Raises ``InvalidArtifact`` if ``text`` isn't a condition on the sizes of inputs."""
    if not _is_condition(_parse("guard", text).body):
        raise InvalidArtifact(f"guard '{text}' isn't a condition on the sizes of inputs")


def _parse(what: str, text: str) -> ast.Expression:
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InvalidArtifact(f"{what} '{text}' can't be read") from error


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _is_size_call(node)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    if isinstance(node, ast.Name):
        return _NAME.fullmatch(node.id) is not None and not node.id.startswith("__")
    return isinstance(node, _ARITHMETIC) and all(_is_size(child) for child in ast.iter_child_nodes(node))


def _is_size_call(node: ast.Call) -> bool:
    """A sympy class by its capital letter; only ``Symbol`` may take a string, the others would evaluate it."""
    if not isinstance(node.func, ast.Name) or not _FUNCTION.fullmatch(node.func.id):
        return False
    arguments = list(node.args)
    if node.func.id == "Symbol":
        symbol = arguments.pop(0) if arguments else None
        name = symbol.value if isinstance(symbol, ast.Constant) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return False
    return all(_is_size(argument) for argument in [*arguments, *(keyword.value for keyword in node.keywords)])


def _is_condition(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _is_sizes(node) or _is_extreme(node)
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int) and _is_sizes(node.value)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    return isinstance(node, _ARITHMETIC) and all(_is_condition(child) for child in ast.iter_child_nodes(node))


def _is_extreme(node: ast.Call) -> bool:
    named = isinstance(node.func, ast.Name) and node.func.id in ("max", "min")
    return named and not node.keywords and all(_is_condition(argument) for argument in node.args)


def _is_sizes(node: ast.AST) -> bool:
    """``<input>.size()``, likewise ``stride`` and ``storage_offset``."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _SIZES
        and not node.args
        and not node.keywords
        and _is_input(node.func.value)
    )


def _is_input(node: ast.AST) -> bool:
    """``L['x']``, and deeper: ``L['x'][0]['y']``."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Constant):
        return False
    key = node.slice.value
    good = isinstance(key, int) or (isinstance(key, str) and _NAME.fullmatch(key) is not None)
    return good and ((isinstance(node.value, ast.Name) and node.value.id == "L") or _is_input(node.value))
