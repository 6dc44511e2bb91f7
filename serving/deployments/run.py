"""What all parts of one deployed application share; each is handed it when it is made. Not here: Ray."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from serving.deployments.common import APPLICATION
from serving.settings import Settings

SECRET_BYTES = 32


@dataclass(frozen=True)
class Run:
    """One deployment of the application: made by ``new_run``, gone when the application is."""

    folder: str
    """On the head node: what lives only as long as the application does."""
    secret: str = field(repr=False)
    """What a gateway shows to a model replica, lest others on the network ask it. Never logged."""
    application: str = APPLICATION


def new_run(settings: Settings) -> Run:
    folder = Path(settings.state_dir) / "run" / uuid.uuid4().hex[:8]
    return Run(str(folder), secrets.token_hex(SECRET_BYTES))
