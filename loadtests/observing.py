"""What it costs to be watched: CPU per request of a whole Holdfast with everything on beside one with everything off.

`python -m loadtests.observing`, needs wrk. Both run at once and are asked in turns, so that a ratio is one moment's.
On: incidents are kept, values are looked at, one good request in a thousand (`LINES_SHARE`) leaves a line of JSON, and
one in a hundred a trace, at most 20 a second, as is the default; the live page is open, and `/metrics` is fetched every
15 s. Both have request ids, counters and all protection.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtests.bench import process_tree, wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.workloads import Body
from loadtests.resilience.answers import digit_documents
from loadtests.resilience.client import NoReply, Pool
from loadtests.resilience.errors import RunError
from loadtests.resilience.system import HOST, HoldfastUnderTest
from loadtests.terminal import sigterm_is_ctrl_c

MODEL: Final = "digits"
VERSION: Final = "v2"
INCIDENTS: Final = "incidents"
VALUES: Final = "values"
LINES: Final = "lines"
TRACES: Final = "traces"
PAGE: Final = "page"
METRICS: Final = "metrics"
PARTS: Final = (INCIDENTS, VALUES, LINES, TRACES, PAGE, METRICS)
LINES_SHARE: Final = 0.001
SCRAPE_S: Final = 15.0
CONNECTIONS: Final = (1, 32, 128)
_WARM_UP_S: Final = 3.0

Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """0, 2 when it couldn't run, 130 when interrupted. It judges nothing."""
    options = _parser().parse_args(argv)
    sigterm_is_ctrl_c()
    try:
        print(asyncio.run(_measured(options, lambda line: print(line, flush=True))))
    except (RunError, BenchError) as error:
        print(f"observing: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("observing: interrupted", file=sys.stderr)
        return 130
    return 0


async def _measured(options: argparse.Namespace, say: Say) -> str:
    wrk.require_wrk()
    rows: dict[int, list[tuple[float, float]]] = {count: [] for count in CONNECTIONS}
    with _folder(options.store) as folder:
        body = Body(folder / "body.json", "application/json", None)
        body.file.write_bytes(digit_documents()[0])
        async with _collector() as endpoint, contextlib.AsyncExitStack() as stack:
            off = await stack.enter_async_context(HoldfastUnderTest(_off(folder / "plain")))
            on = await stack.enter_async_context(HoldfastUnderTest(_on(folder, options.only, endpoint)))
            await stack.enter_async_context(_looked_at(on, options.only))
            say("both are ready")
            for system in (off, on):
                await _cost_us(system, body, connections=32, seconds=_WARM_UP_S)
            for number in range(1, options.rounds + 1):
                for count in CONNECTIONS:
                    turn = (off, on) if number % 2 else (on, off)
                    us = [await _cost_us(system, body, connections=count, seconds=options.seconds) for system in turn]
                    pair = (us[0], us[1]) if turn[0] is off else (us[1], us[0])
                    rows[count].append(pair)
                    say(f"round {number}/{options.rounds}  c={count:<4} off {pair[0]:7.1f} us  on {pair[1]:7.1f} us")
    return table(rows)


def table(rows: Mapping[int, Sequence[tuple[float, float]]]) -> str:
    """Medians of the rounds, and of their ratios with the lowest and the highest; as Markdown."""
    lines = [
        "| connections | off, us of CPU for a request | on | on / off (lowest-highest) |",
        "|---:|---:|---:|---:|",
    ]
    for count, pairs in rows.items():
        off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(on_us / off_us for off_us, on_us in pairs)
        middle = statistics.median(ratios)
        lines.append(f"| {count} | {off:.1f} | {on:.1f} | {middle:.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}) |")
    return "\n".join(lines)


async def _cost_us(system: HoldfastUnderTest, body: Body, *, connections: int, seconds: float) -> float:
    """CPU microseconds for a request, of all processes of the system."""
    url = f"http://{HOST}:{system.port}/v2/models/{MODEL}/infer"
    before = _ticks(await system.processes())
    load = await asyncio.to_thread(wrk.run, url, body, connections=connections, seconds=seconds)
    after = _ticks(await system.processes())
    if load.bad_status or load.socket_errors or not load.requests:
        raise RunError(f"{load.bad_status} bad answers, {load.socket_errors} errors, {load.requests} requests in all")
    spent = sum(ticks - before.get(pid, 0) for pid, ticks in after.items())
    return spent / process_tree.TICKS_PER_S / load.requests * 1e6


def _ticks(pids: Mapping[int, str]) -> dict[int, int]:
    found = {pid: process_tree.read(pid) for pid in pids}
    return {pid: process.cpu_ticks for pid, process in found.items() if process is not None}


# The two systems


def _off(store: Path) -> dict[str, Any]:
    return {
        "store": str(store),
        "gateway": {"replicas": 1},
        "models": [{"name": MODEL, "versions": [VERSION], "replicas": 1}],
        "incidents": {"enabled": False},
    }


def _on(folder: Path, parts: Collection[str], endpoint: str) -> dict[str, Any]:
    found = _off(folder / ("models" if VALUES in parts else "plain"))
    if INCIDENTS in parts:
        del found["incidents"]
    if LINES in parts:
        found |= {"log_format": "json", "access_log": LINES_SHARE}
    if TRACES in parts:
        found["tracing"] = {"endpoint": endpoint}
    return found


@contextlib.contextmanager
def _folder(source: Path) -> Iterator[Path]:
    """Two stores: `models` as it is, and `plain`, whose version says nothing of what its inputs should be."""
    if not (source / MODEL / VERSION).is_dir():
        raise RunError(f"no {MODEL}@{VERSION} in {source}: `python -m models.zoo --store {source}` makes it")
    with tempfile.TemporaryDirectory(prefix="hfr-observing-", dir="/tmp") as name:
        folder = Path(name)
        for store in ("models", "plain"):
            shutil.copytree(source / MODEL / VERSION, folder / store / MODEL / VERSION)
        path = folder / "plain" / MODEL / VERSION / "manifest.json"
        manifest = json.loads(path.read_text())
        if not manifest.pop("quality", None):
            raise RunError(f"{MODEL}@{VERSION} in {source} has no `quality`: make the example models again")
        path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
        yield folder


# Who looks


@contextlib.asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """Takes whatever is sent, and looks at nothing."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError)
        with contextlib.suppress(*gone), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with await asyncio.start_server(take, HOST, 0) as server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/v1/traces"


@contextlib.asynccontextmanager
async def _looked_at(system: HoldfastUnderTest, parts: Collection[str]) -> AsyncIterator[None]:
    """By one who has the live page open, and by a Prometheus."""

    async def page() -> None:
        reader, writer = await asyncio.open_connection(HOST, system.port)
        with contextlib.closing(writer):
            writer.write(b"GET /v2/holdfast/live HTTP/1.1\r\nhost: holdfast\r\naccept: text/event-stream\r\n\r\n")
            while await reader.read(1 << 16):
                pass
        raise RunError("the stream of the live page ended")

    async def prometheus() -> None:
        with contextlib.closing(Pool(HOST, system.port)) as pool:
            while True:
                await pool.ask("GET", "/metrics")
                await asyncio.sleep(SCRAPE_S)

    chosen = {PAGE: page, METRICS: prometheus}
    looking = [asyncio.create_task(look()) for part, look in chosen.items() if part in parts]
    try:
        yield
        for task in looking:
            if task.done():
                raise RunError("who looked on stopped looking") from task.exception()
    finally:
        for task in looking:
            task.cancel()
        with contextlib.suppress(RunError, NoReply, OSError):
            await asyncio.gather(*looking, return_exceptions=True)


def _parts(text: str) -> tuple[str, ...]:
    if unknown := set(text.split(",")) - {*PARTS}:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    return tuple(text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.observing",
        description="CPU per request with everything on that tells of requests, beside everything off.",
    )
    parser.add_argument("--store", type=Path, default=Path(".holdfast/models"), metavar="DIR", help="of the models")
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="NAME,NAME", help=f"of {', '.join(PARTS)}: on")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="medians of them are shown (9)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="N", help="of each load (3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
