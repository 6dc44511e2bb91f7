"""One server under test: started in a session of its own, waited for, and ended with everything it started."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from loadtests.bench import process_tree
from loadtests.bench.errors import BenchError
from loadtests.bench.process_tree import Process

TERM_GRACE_S = 5.0
CLUSTER_TERM_GRACE_S = 30.0  # Ray takes several seconds to take a cluster down in good order
KILL_GRACE_S = 5.0
PREPARE_TIMEOUT_S = 120
POLL_S = 0.1


@dataclass(frozen=True)
class Launch:
    """How to start a server. `temp_dir` belongs to this one start: it is removed with everything in it."""

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    log: Path
    ports: Sequence[int]
    temp_dir: Path | None = None
    before: Sequence[Sequence[str]] = field(default=())  # commands that must succeed first
    term_grace_s: float = TERM_GRACE_S  # from SIGTERM to SIGKILL


def make_temp_dir() -> Path:
    """A short path: Unix sockets below it must stay under 108 characters."""
    return Path(tempfile.mkdtemp(prefix="hfb-", dir="/tmp"))


def busy_ports(ports: Sequence[int]) -> list[int]:
    """Those of `ports` that somebody listens on."""
    busy = []
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # Without it a port whose last connections are still fading would count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                busy.append(port)
    return busy


class Server:
    """`with Server(name, launch) as server: server.wait(...)`."""

    def __init__(self, name: str, launch: Launch) -> None:
        self.name = name
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self._not_ours: frozenset[int] = frozenset()

    def __enter__(self) -> "Server":
        try:
            self._start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Cleaning up is bounded; a second Ctrl-C must not leave half a cluster behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._stop()
        finally:
            self._clean_up()
            signal.signal(signal.SIGINT, before)

    def tree(self) -> list[Process]:
        """The server and all that it started, orphans included (see `adopt_orphans`); wrk is not among them."""
        if self._process is None:
            return []
        everything = process_tree.processes()
        found = {process.pid: process for process in process_tree.descendants(self._process.pid, everything)}
        for process in everything.values():
            if process.parent == os.getpid() and self._is_orphan(process):
                found |= {p.pid: p for p in process_tree.descendants(process.pid, everything)}
        return list(found.values())

    def wait(self, answer: Callable[[], str | None], *, timeout_s: float) -> None:
        """Until `answer` has no complaint. Raises `BenchError` when the server ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while (wrong := answer()) is not None:
            ended = self._process.poll() if self._process else -1
            if ended is not None:
                raise BenchError(f"{self.name} ended with code {ended} before it was ready; see {self._launch.log}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} not ready after {timeout_s:g} s ({wrong}); see {self._launch.log}")
            time.sleep(POLL_S)

    def _start(self) -> None:
        busy = busy_ports(self._launch.ports)
        if busy:
            numbers = ", ".join(map(str, busy))
            raise BenchError(f"{self.name}: port {numbers} of 127.0.0.1 is in use; choose others with --port-base")
        self._not_ours = frozenset(p.pid for p in process_tree.processes().values() if p.parent == os.getpid())
        self._launch.log.parent.mkdir(parents=True, exist_ok=True)
        with self._launch.log.open("wb") as log:
            for argv in self._launch.before:
                self._prepare(argv, log.fileno())
            try:
                self._process = subprocess.Popen(
                    list(self._launch.argv),
                    cwd=self._launch.cwd,
                    env=self._launch.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{self.name}: {error}") from error

    def _prepare(self, argv: Sequence[str], log: int) -> None:
        try:
            subprocess.run(
                list(argv),
                cwd=self._launch.cwd,
                env=self._launch.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=PREPARE_TIMEOUT_S,
                check=True,
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise BenchError(f"{self.name}: {error}; see {self._launch.log}") from error

    def _is_orphan(self, process: Process) -> bool:
        """A child of ours that we didn't start: it was the server's, and its parent has ended."""
        # wrk and its like keep our session; what a server leaves behind lives in the server's or in one of its own.
        return process.pid not in self._not_ours and _session(process.pid) != os.getsid(0)

    def _stop(self) -> None:
        if self._process is None:
            return
        members = {(p.pid, p.started) for p in self.tree()}
        self._process.terminate()
        try:
            self._process.wait(self._launch.term_grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(KILL_GRACE_S)
        members |= {(p.pid, p.started) for p in [*self.tree(), *self._users_of_temp_dir()]}
        for number in (signal.SIGTERM, signal.SIGKILL):
            _end(members, number)
        alive = _alive(members)
        if alive:
            raise BenchError(f"{self.name}: could not end processes {sorted(alive)}")

    def _users_of_temp_dir(self) -> list[Process]:
        """What still names this start's own directory on its command line."""
        if self._launch.temp_dir is None:
            return []
        needle = str(self._launch.temp_dir).encode()
        return [p for p in process_tree.processes().values() if needle in _command_line(p.pid)]

    def _clean_up(self) -> None:
        if self._launch.temp_dir is not None:
            shutil.rmtree(self._launch.temp_dir, ignore_errors=True)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return os.getsid(0)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _alive(members: set[tuple[int, int]]) -> set[int]:
    """The pids among `members` that still run; a pid given to a new process has another start time."""
    alive = set()
    for pid, started in members:
        process = process_tree.read(pid)
        if process is None or process.started != started:
            continue
        if process.state == "Z":
            _reap(pid)
        else:
            alive.add(pid)
    return alive


def _end(members: set[tuple[int, int]], number: signal.Signals) -> None:
    for pid in _alive(members):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + KILL_GRACE_S
    while _alive(members) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # somebody else's child
