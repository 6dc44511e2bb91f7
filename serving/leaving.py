"""How a replica's process ends without losing what it has: by Serve's wish, or by SIGTERM.

Python's own ways don't hear SIGTERM in a Ray worker. Ray's main thread sits in C++ and has a handler of its own, which
ends the process; one of ours could be installed from the main thread only, where none of our code ever runs.
``faulthandler`` installs one from any thread, in C: it writes a stack to a file, ours the end of a pipe whose other end
the loop reads (docs/adr/0016). Not here: what there is to finish.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
from collections.abc import Awaitable, Callable

log = logging.getLogger("holdfast")


class Sigterm:
    """Calls ``action`` on the loop at the first SIGTERM, instead of whatever would have happened."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._loop = asyncio.get_running_loop()
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        os.set_blocking(self._writes, False)  # a full pipe must not hold up who was interrupted
        self._loop.add_reader(self._reads, self._heard)
        faulthandler.register(signal.SIGTERM, file=self._writes, all_threads=False, chain=False)

    def close(self) -> None:
        """Hear no more. The signal stays without effect: whoever closes this is about to end."""
        self._loop.remove_reader(self._reads)

    def _heard(self) -> None:
        self.close()
        self._action()


def ends_at_once(ended: Callable[[], None]) -> Sigterm:
    """As long as a process starts, SIGTERM ends it: there is nothing to finish, and nothing may come to it any more.

    Ray's own handler would end the interpreter, but not the loop, which goes on to listen and is killed with what it
    has. ``ended`` is called before. Closed when another ``Sigterm`` takes over.
    """

    def end() -> None:
        ended()
        os._exit(0)

    return Sigterm(end)


class Exit:
    """The end of a replica's process, by Serve's wish (which ends the process itself) or by a signal."""

    def __init__(self, leave: Callable[[], Awaitable[None]], *, within_s: float) -> None:
        self._leave = leave
        self._within_s = within_s
        self._leaving: asyncio.Task[None] | None = None

    async def left(self) -> None:
        """Returns when the replica has finished what it had, once however often it is told to leave."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._in_time())
        await asyncio.shield(self._leaving)

    def begin(self) -> None:
        """Leave, and end the process; Serve starts another one."""
        log.warning("told to stop: finishing what there is")
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _in_time(self) -> None:
        async with asyncio.timeout(self._within_s):
            await self._leave()

    async def _end(self) -> None:
        try:
            await self.left()
        except Exception:
            log.exception("ending without having finished")
        finally:
            os._exit(0)
