"""Several nodes of a Ray cluster on this machine, each with a loopback address and a temporary folder of its own.

Not here: what runs on them (``tests.integration.system``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from tests.integration.system import STOP_S, System, eventually, free_ports
from tests.interrupts import ctrl_c_counts


class Node:
    """``holdfast node``, the head node or one that joins it."""

    def __init__(self, system: System, ip: str, *, port: int, join: str | None = None) -> None:
        self.ip = ip
        self.folder = system.folder / f"n{ip.rpartition('.')[2]}"
        self.folder.mkdir()
        self._again = False
        where = ["--head", f"--port={port}"] if join is None else [f"--join={join}:{port}"]
        agent, clients = free_ports(2)
        words = ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}"]
        if join is not None:
            words.append(f"--temp-dir={self.folder / 'ray'}")  # else it would be the head node's
        else:
            words.append(f"--ray-client-server-port={clients}")
        self._command = [*system.command("node"), *where, f"--ip={ip}", "--num-cpus=2", "--", *words]
        self._environment = {**system.environment, "RAY_TMPDIR": str(self.folder)}
        self._start()

    def _start(self) -> None:
        with (self.folder / "log").open("ab") as log, ctrl_c_counts():
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def alive(self) -> str | None:
        """What speaks against it. Ray gives up a node that takes over 15 s to start: that is tried once more."""
        if (code := self._process.poll()) is None:
            return None
        if "timed out during startup" not in self.said() or self._again:
            return f"node {self.ip} ended with code {code}: {self.said()[-2000:]}"
        self._again = True
        self.kill()
        self._start()
        return None

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def logs(self) -> str:
        """What its Ray workers wrote to standard error."""
        found = sorted(self.folder.glob("ray/session_*/logs/worker-*.err"))
        return "\n".join(path.read_text(errors="replace") for path in found)

    def pids(self) -> list[int]:
        """All that it started and that lives."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                ours = f"RAY_TMPDIR={self.folder}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if (ours or int(session) == self._process.pid) and state != "Z" and pid != os.getpid():
                    found.append(pid)
        return found

    def kill(self) -> None:
        """All at once, as when the machine loses its power."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """As a person would."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
            eventually(lambda: not self.pids(), "nothing is left of the node", within_s=10)
        finally:
            self.kill()
