"""The system under test: its configuration, its life, its processes, and what it says of itself over HTTP."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import yaml

from loadtests.resilience.client import NoReply, Pool
from loadtests.resilience.errors import RunError
from loadtests.resilience.evidence import Counters, counters
from loadtests.resilience.nodes import Nodes
from loadtests.resilience.processes import kill, processes_of

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
LEFT_TIMEOUT_S = 10.0
GATEWAYS = 2
GATEWAY_TITLE = "ray::ServeReplica:holdfast:Gateway"
_POLL_S = 0.1
_DROPPED_PREFIXES = ("RAY_", "HOLDFAST_")


class Replica(NamedTuple):
    """A model replica as Holdfast knows it, and its process."""

    id: str
    pid: int


class HoldfastUnderTest:
    """`async with HoldfastUnderTest(arguments) as system`: one Holdfast in a folder and on ports of its own.

    With more than one of them, its `nodes` are a Ray cluster, which it joins.
    """

    def __init__(self, arguments: Mapping[str, Any], *, keep: bool = False, nodes: int = 1) -> None:
        self._keep = keep
        self._node_count = nodes
        self.nodes: Nodes | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="hfr-", dir="/tmp"))  # short: sockets lie below it
        self.gateway_count = int(arguments.get("gateway", {}).get("replicas", GATEWAYS))
        self.port, *self._range = free_ports(1 + self.gateway_count + 4)
        self.log = self.folder / "up.log"
        self.arguments: dict[str, Any] = {
            **arguments,
            "state_dir": str(self.folder / "state"),
            "http": {
                **arguments.get("http", {}),
                "host": HOST,
                "port": self.port,
                "gateway_ports": [self._range[0], self._range[-1]],
            },
        }
        self.pool = Pool(HOST, self.port)
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()

    async def __aenter__(self) -> "HoldfastUnderTest":
        try:
            await self.start()
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._end()

    # Life

    async def start(self) -> None:
        """Run `holdfast up` and wait until every version is ready in every gateway."""
        if self._node_count > 1:
            self.nodes = Nodes(Path(tempfile.mkdtemp(prefix="c", dir=self.folder)), self._environment(), free_ports)
            self.arguments["ray_address"] = self.nodes.address
            await asyncio.to_thread(self.nodes.start, self._node_count)
        self._spawn()
        await self.until(self.whole, "every version is ready in every gateway", within_s=START_TIMEOUT_S)

    def _spawn(self) -> None:
        config = self.folder / "serve.yaml"
        application = {
            "name": "holdfast",
            "import_path": "serving.app:build",
            "route_prefix": "/",
            "args": self.arguments,
        }
        config.write_text(yaml.safe_dump({"proxy_location": "Disabled", "applications": [application]}))
        with self.log.open("ab") as log, _ctrl_c_counts():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.cli", "up", "-c", str(config)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.add(self._process.pid)

    async def stop(self) -> list[str]:
        """End it as Ctrl-C does. What speaks against how it ended."""
        process, self._process = self._process, None
        assert process is not None
        self.pool.close()
        os.killpg(process.pid, signal.SIGINT)
        complaints = []
        try:
            code = await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            complaints.append(f"didn't stop within {STOP_TIMEOUT_S:g} s")
        else:
            if code != 0:
                complaints.append(f"stopped with code {code}")
            if self.nodes is not None:
                self.nodes.end()
            if left := await self._left():
                complaints.append(f"left processes behind: {left[:3]}")
        self._kill(process)
        return complaints + [f"a trace in {name}" for name in self.traces()]

    async def _left(self) -> list[str]:
        """What lives of it a while after it ended: Ray's processes need a moment to see that their raylet is gone."""
        until = time.monotonic() + LEFT_TIMEOUT_S
        while True:
            left = await asyncio.to_thread(self._processes)
            if not left or time.monotonic() > until:
                return sorted(left.values())
            await asyncio.sleep(_POLL_S)

    def _end(self) -> None:
        process, self._process = self._process, None
        self.pool.close()
        if process is not None:
            self._kill(process)
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """The command itself first: it would start others anew."""
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in self._processes():
            kill(pid)

    def _environment(self) -> dict[str, str]:
        """Ours without settings, and a temporary folder for Ray that nobody else on this machine uses."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED_PREFIXES)}
        return kept | {"RAY_TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    # Waiting

    async def until(self, condition: Callable[[], Any], what: str, *, within_s: float) -> float:
        """The seconds until an awaitable condition is true. Raises `RunError` if that doesn't happen."""
        began = time.monotonic()
        while not await condition():
            if self._process is None or (code := self._process.poll()) is not None:
                raise RunError(f"holdfast ended (code {code if self._process else '?'}): {self.last_words()}")
            if time.monotonic() - began > within_s:
                raise RunError(f"not within {within_s:g} s: {what}")
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - began

    async def whole(self) -> bool:
        """Whether all gateways take requests, and each has every replica of every version."""
        ports = await self.accepting()
        if len(ports) != self.gateway_count:
            return False
        for port in ports:
            if not await self._all_ready(port):
                return False
        wanted = {name: model["replicas"] for model in self.arguments["models"] for name in versions_of(model)}
        found = await self.all_replicas()
        return all(len(found.get(name, ())) == count for name, count in wanted.items())

    async def _all_ready(self, port: int) -> bool:
        try:
            status, index = await self._at(port, "POST", "/v2/repository/index", {})
        except NoReply:
            return False
        ready = {f"{entry['name']}@{entry['version']}" for entry in index if entry["state"] == "READY"}
        return status == 200 and ready >= {name for model in self.arguments["models"] for name in versions_of(model)}

    # What it says of itself

    async def ask(self, method: str, path: str, document: Any = None, *, timeout_s: float = 30.0) -> Any:
        """The JSON of a good answer; raises `RunError` for any other."""
        try:
            status, answer = await self.pool.ask(method, path, document, timeout_s=timeout_s)
        except NoReply as error:
            raise RunError(f"{method} {path}: {error}") from None
        if status not in (200, 202, 204):
            raise RunError(f"{method} {path}: {status} {answer}")
        return answer

    async def accepting(self) -> list[int]:
        """The ports of the gateways that take requests."""
        found = []
        for port in self._range:
            with contextlib.suppress(NoReply):
                if (await self._at(port, "GET", "/v2/holdfast/accepting"))[0] == 200:
                    found.append(port)
        return found

    async def all_replicas(self) -> dict[str, list[Replica]]:
        """The replicas of each version that live."""
        try:
            status, answer = await self.pool.ask("GET", "/v2/holdfast/replicas", timeout_s=5.0)
        except NoReply:
            return {}
        if status != 200:
            return {}
        return {
            f"{entry['model']}@{entry['version']}": [
                Replica(str(replica["id"]), int(replica["pid"])) for replica in entry["replicas"]
            ]
            for entry in answer
        }

    async def places(self, version: str) -> set[str]:
        """The addresses of the nodes on which a gateway has a live channel to a replica of the version."""
        model, _, name = version.partition("@")
        found: set[str] = set()
        for status in await self.status():
            versions = status["models"].get(model, {}).get("versions", {})
            found |= {one["ip"] for one in versions.get(name, {}).get("replicas", ()) if one["live"] and "ip" in one}
        return found

    async def replicas(self, version: str) -> list[Replica]:
        return sorted((await self.all_replicas()).get(version, []))

    async def status(self) -> list[Any]:
        """What each gateway says at `/v2/holdfast/status`."""
        found = []
        for port in await self.accepting():
            with contextlib.suppress(NoReply):
                status, answer = await self._at(port, "GET", "/v2/holdfast/status")
                if status == 200:
                    found.append(answer)
        return found

    async def counters(self) -> Counters:
        """What `/metrics` has counted, of all gateways."""
        return counters(str(await self.ask("GET", "/metrics")))

    async def _at(self, port: int, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        """A question to one gateway itself, on a connection of its own."""
        pool = Pool(HOST, port)
        try:
            return await pool.ask(method, path, document, timeout_s=5.0)
        finally:
            pool.close()

    async def gateways(self) -> list[int]:
        """The pids of the gateways."""
        return await self.titled(lambda command: command.split(" ")[0] == GATEWAY_TITLE)

    async def titled(self, wanted: Callable[[str], bool]) -> list[int]:
        """The pids of all its processes whose command line is wanted."""
        return sorted(pid for pid, command in (await self.processes()).items() if wanted(command))

    async def processes(self) -> dict[int, str]:
        """The command lines of all its processes, by pid."""
        return await asyncio.to_thread(self._processes)

    def _processes(self) -> dict[int, str]:
        return processes_of(self._sessions, str(self.folder))

    # What it wrote

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1] if lines else "(nothing)"

    def traces(self) -> list[str]:
        """The logs of its processes that have a trace: a defect, whatever the answers were like."""
        found = []
        logs = "ray/session_latest/logs/worker-*.err"
        for log in sorted([*self.folder.glob(logs), *self.folder.glob(f"c*/n*/{logs}")]):
            text = log.read_text(errors="replace")
            if "Traceback" in text or "never retrieved" in text:
                found.append(f"{log.name} ({_reason(text)})")
        return found


def _reason(text: str) -> str:
    """The last line of the first trace."""
    lines = text[max(0, text.find("Traceback")) :].splitlines()
    return next((line for line in lines[1:] if line and not line.startswith((" ", "\t"))), lines[0])[:200]


def versions_of(model: Mapping[str, Any]) -> list[str]:
    return [f"{model['name']}@{version}" for version in model["versions"]]


@contextlib.contextmanager
def _ctrl_c_counts() -> Iterator[None]:
    """What starts in here hears SIGINT, even if we were started in the background, where a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def free_ports(count: int) -> list[int]:
    """Ports one after the other that nobody listens on, below those that the kernel hands out by itself."""
    rng = random.Random()
    for _ in range(100):
        first = rng.randrange(20_000, 30_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server((HOST, port)))
            return list(range(first, first + count))
    raise RunError(f"no {count} free ports in a row")
