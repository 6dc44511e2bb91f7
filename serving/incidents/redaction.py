"""What of a caller's data may be kept: names that settings leave out, and a function of the people who serve the model.

If that function fails, nothing is kept of what it was to look at. Not here: models of which nothing is kept at all.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from models.inference import DATATYPES, Array, Tensor, Tensors
from serving.settings import SettingsError

log = logging.getLogger("holdfast.incidents")

Redact = Callable[[str, dict[str, Array]], Mapping[str, Array] | None]
"""Is told the model and its tensors by name; gives those that may be kept, changed or not. None: none of them."""


def load_redaction(name: str) -> Redact:
    """The function that ``package.module:function`` names. Raises ``SettingsError``, with the setting's name."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # noqa: BLE001  # a module may raise anything when it is imported
        raise SettingsError(f"incidents.redaction: {name}: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise SettingsError(f"incidents.redaction: {name} is no function")
    redact: Redact = found
    return redact


def nothing(_model: str, _tensors: dict[str, Array]) -> None:
    """What may be kept if the function that should say so can't be had."""


class Redaction:
    """Applies both. Says once, not a thousand times, that the function fails."""

    def __init__(self, redact: Redact | None) -> None:
        self._redact = redact
        self._failing = False

    @property
    def changes(self) -> bool:
        """Whether there is a function."""
        return self._redact is not None

    def kept(self, model: str, tensors: Tensors, names: Collection[str]) -> dict[str, Tensor]:
        """By name, the tensors that may be kept, as they may be kept."""
        allowed = {tensor.name: tensor for tensor in tensors if tensor.name not in names}
        if self._redact is None or not allowed:
            return allowed
        try:
            # Copies: a function that writes into what it is given mustn't change an answer that is on its way.
            found = self._redact(model, {name: tensor.array.copy() for name, tensor in allowed.items()}) or {}
            kept = {name: _checked(allowed[name], array) for name, array in found.items()}
        except Exception as error:
            if not self._failing:
                log.exception("incidents.redaction fails, so no values are kept: %s", type(error).__name__)
            self._failing = True
            return {}
        self._failing = False
        return kept


def _checked(tensor: Tensor, array: Array) -> Tensor:
    if array.dtype != DATATYPES[tensor.datatype].dtype:
        raise TypeError(f"'{tensor.name}' came back as {array.dtype}")
    return Tensor(tensor.name, tensor.datatype, array)
