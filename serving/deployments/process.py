"""What every replica's process does: a log, and work that comes round again.

Not here: how a process ends (``serving.leaving``).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from serving.log_lines import formatter
from serving.settings import Settings

log = logging.getLogger("holdfast")

METRICS_FLUSH_S = 0.5


async def every(seconds: float, action: Callable[[], Awaitable[Any]]) -> None:
    """Repeat ``action`` until cancelled; one that fails is logged and tried again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await action()
        except Exception:
            log.exception("a periodic task failed")


def set_up_logging(settings: Settings) -> None:
    """Holdfast's log goes to standard error, which Ray keeps for every process."""
    logger = logging.getLogger("holdfast")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.__stderr__)  # Serve puts its own logger in sys.stderr's place
        handler.setFormatter(formatter(settings.log_format))
        logger.addHandler(handler)
    logger.setLevel(settings.log_level)
    logger.propagate = False
