"""Whether the text of an error may leave the gateway: it may quote what a caller sent. Pure.

Codes, versions and times always may. Not here: what incidents keep (``serving.incidents.redaction``).
"""

from __future__ import annotations

from collections.abc import Callable

from serving.model_settings import ModelSettings
from serving.settings import Settings

Quotable = Callable[[str], bool]
"""Whether texts about a model's requests may be shown, by its name."""


def quotable(settings: Settings) -> Quotable:
    """A model that is sensitive, or of whose inputs some are hidden, has no texts; with a hook, nobody has any."""
    if settings.incidents.redaction is not None:
        return lambda _model: False
    hidden = frozenset(model.name for model in settings.models if hides(model))
    return lambda model: model not in hidden


def hides(model: ModelSettings) -> bool:
    return model.sensitive or bool(model.redact)
