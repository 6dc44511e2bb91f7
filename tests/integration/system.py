"""The whole system as processes of its own: started, asked, hurt and stopped from outside, as people would.

Not here: what it should do (the tests say).
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml
from prometheus_client.parser import text_string_to_metric_families

from models.inference import Array
from tests.interrupts import ctrl_c_counts

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
START_S = 240.0
"""Bounds are for a machine that has much else to do; nothing here is a measurement."""
RECOVERY_S = 90.0
STOP_S = 60.0

MODELS: tuple[dict[str, Any], ...] = (
    {"name": "digits", "versions": ["v1", "v2"], "stable": "v2"},
    {"name": "digits-lite", "versions": ["v1"]},
    {"name": "orientation", "versions": ["v1"], "timeout_ms": 30_000, "max_batch_rows": 16},
)
VERSIONS = frozenset({"digits@v1", "digits@v2", "digits-lite@v1", "orientation@v1"})
BODY_MAX_BYTES = 16 << 20
BLANK: Array = np.zeros((1, 64), np.float32)
GATEWAY = "ray::ServeReplica:holdfast:Gateway"
CONTROL = "ray::ServeReplica:holdfast:Control"
HAPROXY = "/haproxy"


class Answer(NamedTuple):
    """A whole response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.headers.get("content-type") == "application/json", (self.status, self.headers, self.body[:300])
        return json.loads(self.plain())

    def plain(self) -> bytes:
        match self.headers.get("content-encoding"):
            case "gzip":
                return gzip.decompress(self.body)
            case "deflate":
                return zlib.decompress(self.body)
        return self.body

    def error(self) -> str:
        """The text of an error; every one has this form."""
        document = self.json()
        assert list(document) == ["error"], document
        assert isinstance(document["error"], str)
        return document["error"]


class Sample(NamedTuple):
    """One line of ``/metrics`` without its value."""

    name: str
    labels: frozenset[tuple[str, str]]

    @property
    def counts(self) -> bool:
        """Whether it may only ever grow."""
        return self.name.endswith(("_total", "_count", "_sum", "_bucket"))


class Process(NamedTuple):
    pid: int
    command: str


class System:
    """One Holdfast in a folder of its own, with ports of its own."""

    def __init__(self, store: Path, *, models: Iterable[Mapping[str, Any]] = MODELS, gateways: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hf-"))  # short: Ray's and our sockets lie below it
        self.store = store
        self.gateways = gateways
        self.port, *self.range = free_ports(1 + gateways + 2)
        self.config = self.folder / "serve.yaml"
        self.document: dict[str, Any] = {
            "proxy_location": "Disabled",
            "applications": [
                {
                    "name": "holdfast",
                    "import_path": "serving.app:build",
                    "route_prefix": "/",
                    "args": {
                        "state_dir": str(self.folder / "state"),
                        "store": str(store),
                        "http": {
                            "host": HOST,
                            "port": self.port,
                            "gateway_ports": [self.range[0], self.range[-1]],
                            "body_max_bytes": BODY_MAX_BYTES,
                        },
                        "gateway": {"replicas": gateways},
                        "models": [dict(model) for model in models],
                    },
                }
            ],
        }
        self.log = self.folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()

    @property
    def args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.document["applications"][0]["args"]
        return args

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with a temporary folder for Ray that nobody else on this machine uses."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | {"RAY_TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    # Life

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "serving.cli", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of `holdfast` about this system, to its end."""
        return subprocess.run(
            self.command(*arguments, "-c", str(self.config)),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def write_config(self) -> None:
        self.config.write_text(yaml.safe_dump(self.document))

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Run ``holdfast up``, or another command that brings the system up."""
        self.write_config()
        with self.log.open("ab") as log, ctrl_c_counts():
            self._process = subprocess.Popen(
                command or self.command("up", "-c", str(self.config)),
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.add(self._process.pid)

    def wait_until_ready(self) -> None:
        eventually(self._all_ready, "every model is ready in every gateway", within_s=START_S, alive=self._alive)

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it as a person would; its exit code. Nothing that it started may be left after that."""
        process = self._process
        assert process is not None
        try:
            code = self.leave(number)
            # Ray's processes may need a moment to notice that their raylet is gone.
            eventually(lambda: not self.processes(), lambda: f"nothing is left: {self.processes()}", within_s=10)
        finally:
            self._kill(process)
        return code

    def leave(self, number: int = signal.SIGINT) -> int:
        """End what was started, as a person would, and not what that has joined; its exit code."""
        process, self._process = self._process, None
        assert process is not None
        if number == signal.SIGINT:  # as a terminal does it: everyone in the foreground gets it
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait(STOP_S)

    def remove(self) -> None:
        """Give the folder back, and end the system if a test left it running."""
        process, self._process = self._process, None
        if process is not None:
            self._kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """All of it, and the process itself first: it would start others anew."""
        if process.poll() is None:
            process.kill()
            process.wait()
        for left in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)

    def _alive(self) -> str | None:
        if self._process is not None and (code := self._process.poll()) is not None:
            return f"it ended with code {code}"
        return None

    # Processes

    def processes(self) -> list[Process]:
        """All that it started and that lives: its session's processes, and whatever else names its folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                command = _proc_text(entry / "cmdline")
                ours = int(session) in self._sessions or str(self.folder) in command + _proc_text(entry / "environ")
                if ours and state != "Z":
                    found.append(Process(int(entry.name), command))
        return found

    def pids(self, title: str) -> list[int]:
        """The processes with this title or program, sorted: ``ray::ServeReplica:holdfast:Gateway``, for example."""
        return sorted(process.pid for process in self.processes() if process.command.split(" ")[0].endswith(title))

    def pid(self, title: str) -> int:
        (pid,) = self.pids(title)
        return pid

    # Questions

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:
        """One request on a connection of its own; a body that isn't bytes is sent as JSON."""
        with contextlib.closing(http.client.HTTPConnection(HOST, port or self.port, timeout=timeout_s)) as connection:
            return request(connection, method, path, body, headers)

    def infer(self, model: str, image: Array, *, port: int | None = None, **document: Any) -> Answer:
        """``model`` may name a version: ``digits@v1``."""
        return self.ask("POST", infer_path(model), infer_document(model, image) | document, port=port)

    def index(self, port: int | None = None) -> dict[str, tuple[str, str]]:
        """State and reason of every version."""
        entries = self.ask("POST", "/v2/repository/index", {}, port=port).json()
        return {f"{entry['name']}@{entry['version']}": (entry["state"], entry["reason"]) for entry in entries}

    def ready_versions(self, port: int | None = None) -> set[str]:
        return {name for name, (state, _) in self.index(port).items() if state == "READY"}

    def gateway_ports(self) -> list[int]:
        """Where gateways listen themselves and take requests."""
        found = []
        for port in self.range:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/v2/holdfast/accepting", port=port, timeout_s=5).status == 200:
                    found.append(port)
        return found

    def load(self, model: str, version: str | None = None) -> Answer:
        return self._control(model, "load", version)

    def unload(self, model: str, version: str | None = None) -> Answer:
        return self._control(model, "unload", version)

    def _control(self, model: str, command: str, version: str | None) -> Answer:
        body = {} if version is None else {"parameters": {"version": version}}
        return self.ask("POST", f"/v2/repository/models/{model}/{command}", body, timeout_s=150)

    def stable(self, model: str) -> str:
        """The version that answers who doesn't name one."""
        version: str = self.infer(model, BLANK).json()["model_version"]
        return version

    def metrics(self, port: int | None = None) -> dict[Sample, float]:
        """What ``/metrics`` says."""
        text = self.ask("GET", "/metrics", port=port).body.decode()
        return {
            Sample(sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def stats(self, model: str, version: str) -> list[dict[str, Any]]:
        """The version's statistics, of each gateway that has any."""
        path = f"/v2/models/{model}/versions/{version}/stats"
        return [self.ask("GET", path, port=port).json()["model_stats"][0] for port in self.gateway_ports()]

    # Back to how it was

    def restore(self) -> None:
        """All versions loaded, ``v2`` the stable one of digits, everyone alive: where every test starts."""
        eventually(self._takes_commands, "HAProxy, a gateway and the control plane answer", alive=self._alive)
        for name in sorted(self.ready_versions() - VERSIONS):
            self.unload(*name.split("@"))
        for name in ("digits@v2", "digits@v1", "digits-lite@v1", "orientation@v1"):
            if name not in self.ready_versions():
                answer = self.load(*name.split("@"))
                assert answer.status == 200, answer
        self.wait_until_ready()
        assert self.stable("digits") == "v2"

    def _takes_commands(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("POST", "/v2/repository/models/no-such-model/unload", {}).status == 404
        return False

    def _all_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ports = self.gateway_ports()
            wanted = {f"{model['name']}@{version}" for model in self.args["models"] for version in model["versions"]}
            return (
                self.ask("GET", "/v2/health/ready").status == 200
                and len(ports) == self.gateways
                and all(self.ready_versions(port) >= wanted for port in ports)
            )
        return False

    # What it wrote

    def traces(self) -> list[str]:
        """Every trace that one of its processes wrote: a defect, whatever the answers were like."""
        found = []
        for log in sorted((self.folder / "ray" / "session_latest" / "logs").glob("worker-*.err")):
            text = log.read_text(errors="replace")
            if "Traceback" in text or "never retrieved" in text:
                found.append(f"{log.name}\n{_tail(log, 40)}")
        return found

    def story(self, lines: int = 60) -> str:
        """The last that it and its parts wrote, for whoever has to find out why a test failed."""
        texts = [f"-- {self.log.name}\n{_tail(self.log, lines)}"]
        logs = self.folder / "ray" / "session_latest" / "logs"
        for log in sorted(logs.glob("worker-*.err")) if logs.is_dir() else ():
            text = _tail(log, lines)
            name = next((line for line in _head(log, 5) if line.startswith(":actor_name:")), log.name)
            texts.append(f"-- {name}\n{text}")
        return "\n".join(texts)


class Traffic:
    """Steady requests from a thread for each model, on connections that are kept; every answer is kept too."""

    def __init__(self, system: System, *models: str, timeout_us: int = 10_000_000) -> None:
        self.answers: dict[str, list[Answer | Exception]] = {model: [] for model in models}
        self.seconds: list[float] = []
        self._system = system
        self._headers = {"x-request-timeout-us": str(timeout_us)}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(model,), name=model) for model in models]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def failures(self) -> list[Answer | Exception]:
        every = [answer for answers in self.answers.values() for answer in answers]
        return [answer for answer in every if isinstance(answer, Exception) or answer.status != 200]

    def wait_for_more(self, count: int = 20) -> None:
        """Until each model was asked so many times more."""
        seen = {model: len(answers) for model, answers in self.answers.items()}
        eventually(
            lambda: all(len(answers) >= seen[model] + count for model, answers in self.answers.items()),
            f"{count} more answers of each model",
        )

    def _send(self, model: str) -> None:
        rng = np.random.default_rng(1)
        body = json.dumps(infer_document(model, rng.random((1, 64), np.float32))).encode()
        connection = http.client.HTTPConnection(HOST, self._system.port, timeout=60)
        while not self._stop.wait(0.004):
            began = time.monotonic()
            try:
                answer: Answer | Exception = request(connection, "POST", infer_path(model), body, self._headers)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                answer = error
            self.seconds.append(time.monotonic() - began)
            self.answers[model].append(answer)
        connection.close()


def request(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, raw, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def infer_path(model: str) -> str:
    name, _, version = model.partition("@")
    return f"/v2/models/{name}/versions/{version}/infer" if version else f"/v2/models/{name}/infer"


def infer_document(model: str, image: Array) -> dict[str, Any]:
    name = "x" if model.startswith("orientation") else "image"
    entry = {"name": name, "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
    return {"inputs": [entry]}


def eventually(
    condition: Callable[[], T],
    what: str | Callable[[], str],
    *,
    within_s: float = RECOVERY_S,
    alive: Callable[[], str | None] = lambda: None,
) -> T:
    """What ``condition`` says once it says something true; it is asked again and again until then."""
    until = time.monotonic() + within_s
    while not (result := condition()):
        reason = alive()
        if reason is not None or time.monotonic() > until:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not so: {text} ({reason or f'after {within_s:g} s'})")
        time.sleep(0.05)
    return result


def free_ports(count: int) -> list[int]:
    """Ports one after the other that nobody listens on, below those that the kernel hands out by itself."""
    rng = random.Random()
    for _ in range(100):
        first = rng.randrange(20_000, 30_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server((HOST, port)))
            return list(range(first, first + count))
    raise AssertionError(f"no {count} free ports in a row")


def _proc_text(path: Path) -> str:
    return path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _tail(path: Path, lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(nothing)"


def _head(path: Path, lines: int) -> Iterator[str]:
    with path.open(errors="replace") as file:
        for _, line in zip(range(lines), file, strict=False):
            yield line.strip()


def rss_bytes(pid: int) -> int:
    """Memory that is the process's own and in use; what it shares with others isn't counted."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def in_good_order(system: System) -> Iterator[None]:
    """It is up and ready meanwhile; afterwards it has to end well. What goes wrong is told, nothing is left."""
    try:
        system.start()
        system.wait_until_ready()
        yield
        assert system.stop() == 0
        assert system.traces() == []
    except AssertionError as error:
        raise AssertionError(f"{error}\n{system.story()}") from None
    finally:
        system.remove()
