"""Nodes of a Ray cluster on this machine, for a system under test that has several; each may be lost at once.

They have loopback addresses of their own, 127.0.0.2 and up, and share no temporary folder.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from loadtests.resilience.errors import RunError
from loadtests.resilience.processes import kill, processes_of

START_S: Final = 90.0
"""Until a node is up."""
_TRIES: Final = 3
"""Ray gives up a node that takes more than 15 s to start, as one may on a busy machine; then it is started again."""
_UP: Final = "will now block"
_POLL_S: Final = 0.1
_FIRST: Final = 2


class Node:
    """`holdfast node`: the head node, or one that joins it."""

    def __init__(self, ip: str, folder: Path, words: list[str], environment: Mapping[str, str]) -> None:
        self.ip = ip
        self._folder = folder
        self._log = folder / "log"
        folder.mkdir()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.cli", "node", f"--ip={ip}", *words],
                cwd=folder,
                env={**environment, "RAY_TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def came_up(self) -> bool:
        """Waits until it is known. A node that won't is killed, with what it has started."""
        until = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < until:
            if _UP in self._log.read_text(errors="replace"):
                return True
            time.sleep(_POLL_S)
        self.kill()
        return False

    def kill(self) -> None:
        """All its processes at once, as when a machine loses its power."""
        for pid in processes_of({self._process.pid}, str(self._folder)):
            kill(pid)
        self._process.wait()


class Nodes:
    """A cluster below `folder`, of as many nodes as it is told."""

    def __init__(self, folder: Path, environment: Mapping[str, str], free_ports: Callable[[int], list[int]]) -> None:
        self._folder = folder
        self._environment = environment
        self._free_ports = free_ports
        self.port, self._clients = free_ports(2)
        self.head = f"127.0.0.{_FIRST}"
        self._made = 0
        self._living: list[Node] = []

    @property
    def address(self) -> str:
        return f"{self.head}:{self.port}"

    def start(self, count: int) -> None:
        """The head node, and then the others, so many in all. Raises `RunError`."""
        self._add(["--head", f"--port={self.port}", "--", f"--ray-client-server-port={self._clients}"])
        for _ in range(count - 1):
            self.add()

    def add(self) -> str:
        """One more joins; its address. Raises `RunError`."""
        return self._add([f"--join={self.address}", "--"])

    def lose(self, lot: float) -> str:
        """One of those that aren't the head node dies; its address. Raises `RunError` if there is none."""
        others = self._living[1:]
        if not others:
            raise RunError("there is no node but the head node")
        victim = others[min(int(lot * len(others)), len(others) - 1)]
        self._living.remove(victim)
        victim.kill()
        return victim.ip

    def end(self) -> None:
        for node in reversed(self._living):
            node.kill()
        self._living.clear()

    def _add(self, words: list[str]) -> str:
        for _ in range(_TRIES):
            number = _FIRST if not self._living else _FIRST + self._made  # where the head node is, is known already
            self._made += 1
            folder = self._folder / f"n{self._made}"
            (agent,) = self._free_ports(1)
            more = ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}"]
            if self._living:
                more.append(f"--temp-dir={folder / 'ray'}")
            node = Node(f"127.0.0.{number}", folder, [*words, *more], self._environment)
            if node.came_up():
                self._living.append(node)
                return node.ip
        raise RunError(f"no node comes up; the logs below {self._folder} say why")
