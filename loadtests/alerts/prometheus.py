"""A real Prometheus that scrapes one Holdfast on this machine. Programs are Debian's (`apt-get install prometheus`).

Not here: what it is asked.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import yaml

from loadtests.alerts import files
from loadtests.resilience.client import NoReply, Pool
from loadtests.resilience.errors import RunError
from loadtests.resilience.system import HOST, free_ports

START_S: Final = 30.0
CALM_S: Final = 60.0
_POLL_S: Final = 0.1


def program(name: str) -> str:
    """Raises `RunError` if there is none of that name."""
    found = shutil.which(name)
    if found is None:
        raise RunError(f"there is no {name} here: `apt-get install prometheus` brings it (on Debian)")
    return found


class Prometheus:
    """One that runs, asked over its API."""

    def __init__(self, port: int) -> None:
        self._pool = Pool(HOST, port)

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer. Raises `RunError` with what it says is wrong."""
        try:
            status, answer = await self._pool.ask("GET", f"/api/v1/{path}?{urlencode(parameters)}", timeout_s=20.0)
        except NoReply as error:
            raise RunError(f"Prometheus gives no answer: {error}") from None
        if status != 200:
            raise RunError(f"Prometheus: {status} {answer}")
        return answer["data"]

    async def range(self, query: str, *, since: float, until: float, step_s: float) -> list[Mapping[str, Any]]:
        """The series of a query between two moments in wall clock seconds."""
        data = await self.ask("query_range", query=query, start=str(since), end=str(until), step=str(step_s))
        found: list[Mapping[str, Any]] = data["result"]
        return found

    async def firing(self) -> list[Mapping[str, str]]:
        """The labels of every alert that fires now."""
        return [alert["labels"] for alert in (await self.ask("alerts"))["alerts"] if alert["state"] == "firing"]

    async def until_scraped(self) -> None:
        """Raises `RunError` if the target doesn't answer it."""
        give_up = asyncio.get_running_loop().time() + START_S
        said: Any = None
        while asyncio.get_running_loop().time() < give_up:
            with contextlib.suppress(RunError):
                said = [target["lastError"] for target in (await self.ask("targets"))["activeTargets"]]
                if any(target["health"] == "up" for target in (await self.ask("targets"))["activeTargets"]):
                    return
            await asyncio.sleep(_POLL_S)
        raise RunError(f"Prometheus didn't scrape within {START_S:g} s: {said}")

    async def until_calm(self) -> None:
        """Until no alert fires: before the first scrape there was nobody, and the last scenario may not be over yet.

        Raises `RunError` if one goes on.
        """
        give_up = asyncio.get_running_loop().time() + CALM_S
        while firing := await self.firing():
            if asyncio.get_running_loop().time() > give_up:
                names = ", ".join(sorted({labels["alertname"] for labels in firing}))
                raise RunError(f"before anything was done {names} fired for {CALM_S:g} s")
            await asyncio.sleep(_POLL_S)

    def close(self) -> None:
        self._pool.close()


@contextlib.asynccontextmanager
async def prometheus(port: int, rules: Mapping[str, Mapping[str, Any]], *, every_s: float) -> AsyncIterator[Prometheus]:
    """One that scrapes the Holdfast at this port and evaluates these rules, by file name, both so often."""
    executable = program("prometheus")
    folder = Path(tempfile.mkdtemp(prefix="hfp-", dir="/tmp"))
    [own] = free_ports(1)
    _configure(folder, port, rules, every_s)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            executable,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={HOST}:{own}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    running = Prometheus(own)
    try:
        await running.until_scraped()
        yield running
    finally:
        running.close()
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, port: int, rules: Mapping[str, Mapping[str, Any]], every_s: float) -> None:
    """The example of `deploy/`, with the target and the times of this run."""
    every = f"{round(every_s * 1000)}ms"
    document = yaml.safe_load((files.PROMETHEUS / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": every, "evaluation_interval": every}
    [job] = document["scrape_configs"]
    job["scrape_timeout"] = every
    job["static_configs"] = [{"targets": [f"{HOST}:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    for name, content in rules.items():
        (folder / name).write_text(yaml.safe_dump(content))
