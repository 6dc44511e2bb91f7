"""A thread for one thing alone, so that what is written there waits for nothing that others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class OwnThread:
    """Does one call after the other. The thread begins with the first one, and ends with this, or at ``close``."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def do(self, call: Callable[..., T], *args: Any, **named: Any) -> T:
        """What the call gives; raises what it raises, and ``RuntimeError`` after ``close``."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *args, **named))

    def close(self) -> None:
        """Waits for nothing; what was begun is done to its end."""
        self._pool.shutdown(wait=False)
