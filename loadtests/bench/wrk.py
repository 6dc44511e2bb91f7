"""Runs wrk, the load generator, and reads what it measured."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.bench.workloads import Body

SCRIPT = Path(__file__).with_name("post.lua")
PREFIX = "bench "
REQUEST_TIMEOUT_S = 10
GRACE_S = 30  # how much longer than asked wrk may take before it is given up


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw. Latencies are wrk's own, from sending a request to its last byte."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad_status: int
    socket_errors: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds > 0 else 0.0


def require_wrk() -> str:
    """The path of wrk, or a `BenchError` that says how to get it."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("wrk is not installed; it is the load generator (Debian and Ubuntu: apt install wrk)")
    return path


def command(wrk: str, url: str, body: Body, *, connections: int, seconds: float) -> list[str]:
    """The command line. Durations are whole seconds to wrk; anything less than one becomes one."""
    duration = max(1, round(seconds))
    header_length = "-" if body.header_length is None else str(body.header_length)
    return [
        *(wrk, "-t1", f"-c{connections}", f"-d{duration}s", "--timeout", f"{REQUEST_TIMEOUT_S}s"),
        *("-s", str(SCRIPT), url, "--", str(body.file), body.content_type, header_length),
    ]


def parse(stdout: str) -> Load:
    """Reads the JSON line that post.lua prints at the end."""
    for line in stdout.splitlines():
        if line.startswith(PREFIX):
            raw = json.loads(line.removeprefix(PREFIX))
            return Load(
                requests=raw["requests"],
                seconds=raw["duration_us"] / 1e6,
                p50_ms=raw["p50_us"] / 1e3,
                p99_ms=raw["p99_us"] / 1e3,
                bad_status=raw["bad_status"],
                socket_errors=raw["socket_errors"],
            )
    raise BenchError(f"wrk gave no result; it said: {_last_line(stdout)}")


def run(url: str, body: Body, *, connections: int, seconds: float) -> Load:
    """Blocks for about `seconds`."""
    argv = command(require_wrk(), url, body, connections=connections, seconds=seconds)
    try:
        ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=seconds + GRACE_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"wrk did not end within {GRACE_S} s of its {seconds:g} s against {url}") from error
    if ended.returncode != 0:
        raise BenchError(f"wrk failed against {url}: {_last_line(ended.stderr + ended.stdout)}")
    return parse(ended.stdout)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
