"""Puts a gateway's keeper of incidents together from the settings.

Not here: the parts themselves, and who tells them of requests (``serving.ingress.front``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from serving.clock import Clock
from serving.gateway import Gateway
from serving.incidents.keeper import Keeper, Privacy
from serving.incidents.redaction import Redaction, load_redaction, nothing
from serving.incidents.store import IncidentStore
from serving.model_settings import ModelSettings
from serving.settings import Settings, SettingsError

log = logging.getLogger("holdfast.incidents")


def open_incidents(settings: Settings, gateway: Gateway, *, clock: Clock, random: Callable[[], float]) -> Keeper | None:
    """What keeps the node's incidents, or None if the settings want none. The file is opened later, by its thread."""
    own = settings.incidents
    if not own.enabled:
        return None
    known = {model.name: privacy_of(model) for model in settings.models}
    keeper = Keeper(
        IncidentStore(store_folder(settings), max_bytes=own.max_bytes, max_number=own.max_number),
        own,
        privacy=lambda model: known.get(model, Privacy()),
        rollout_of=lambda model: rollout_of(gateway, model),
        redaction=_redaction(own.redaction),
        clock=clock,
        random=random,
    )
    keeper.start()
    return keeper


def store_folder(settings: Settings) -> Path:
    return Path(settings.state_dir) / "incidents"


def privacy_of(model: ModelSettings) -> Privacy:
    return Privacy(model.sensitive, frozenset(model.redact))


def rollout_of(gateway: Gateway, model: str) -> str:
    """The rollout by which the model's requests are thrown now, empty if there is none."""
    split = gateway.split_of(model)
    return "" if split is None else split.epoch


def _redaction(name: str | None) -> Redaction:
    """A function that can't be had is as one that allows nothing: what it would have hidden mustn't be kept."""
    if name is None:
        return Redaction(None)
    try:
        return Redaction(load_redaction(name))
    except SettingsError as error:
        log.error("%s; until that is mended, incidents are kept without values", error)
        return Redaction(nothing)
