"""What the probes of ``holdfast doctor`` have found out, as values. Pure.

A fact that couldn't be found out is an ``error``: what was tried, and what came of it. Not here: finding out
(``serving.doctor.probes``), and what follows (``serving.doctor.checks``).
"""

from __future__ import annotations

from typing import NamedTuple


class PackageFact(NamedTuple):
    """A package that Holdfast needs, or that the lock pins."""

    name: str
    wanted: str
    """As a requirement says it, ``>=1.2,<2``; empty if any will do."""
    installed: str | None
    fits: bool


class LockFact(NamedTuple):
    """What the lock pins; ``path`` is None where there is none, as in an installed Holdfast."""

    path: str | None
    pinned: int = 0
    others: tuple[PackageFact, ...] = ()
    """Those that are there in another version, or not at all."""


class PortFact(NamedTuple):
    """``error`` is why nobody can listen there; ``holdfast`` whether a Holdfast answers, ``ours`` whether this one."""

    port: int
    error: str | None = None
    holdfast: bool = False
    ours: bool = False


class FolderFact(NamedTuple):
    """A folder that is written to, or the nearest one above it that is there. ``free_bytes`` is what we may use."""

    path: str
    free_bytes: int = 0
    free_inodes: int | None = None
    error: str | None = None


class LogFact(NamedTuple):
    """The event log: ``seq`` is None if there is none yet. ``newest`` is the wall clock time of the last event."""

    where: str
    seq: int | None = None
    newest: float | None = None
    verified: int = 0
    error: str | None = None
    corrupt: bool = False


class ServerFact(NamedTuple):
    """A server of somebody else's: its version, or why it can't be asked."""

    where: str
    version: tuple[int, ...] = ()
    error: str | None = None


class ClockFact(NamedTuple):
    """Both clocks at the start and at the end of the examination."""

    wall: tuple[float, float]
    monotonic: tuple[float, float]


class StoreFact(NamedTuple):
    """The registry: how many versions are as published, those that aren't, those that the settings name in vain."""

    path: str
    good: int = 0
    size_bytes: int = 0
    broken: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    error: str | None = None


class TokenFact(NamedTuple):
    """The admin token's file, None if the settings name none. ``open_admin``: changes need no token."""

    path: str | None
    error: str | None = None
    open_to_others: bool = False
    admin_allowed: bool = True


class ProgramFact(NamedTuple):
    """A program that was run: the first line that it said, or why it didn't run."""

    path: str
    said: str = ""
    error: str | None = None


class LimitFact(NamedTuple):
    """File descriptors that a process may have, at first and at most."""

    soft: int
    hard: int


class Facts(NamedTuple):
    """All of it. ``running`` says what of a Holdfast runs with these settings; empty if nothing does."""

    python: tuple[int, int, int]
    packages: tuple[PackageFact, ...]
    lock: LockFact
    running: str
    restore_unfinished: bool
    public: PortFact
    gateways: tuple[PortFact, ...]
    state: FolderFact
    store: FolderFact
    log_folder: FolderFact | None
    versions: StoreFact
    log: LogFact
    postgres: ServerFact | None
    redis: ServerFact | None
    haproxy: ProgramFact
    token: TokenFact
    files: LimitFact
    shm: FolderFact
    sockets: tuple[str, ...]
    """The longest paths that Unix sockets will have."""
    clock: ClockFact
