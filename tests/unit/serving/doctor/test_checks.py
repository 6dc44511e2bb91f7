"""Every check of ``holdfast doctor`` says what is wrong and what to do, whatever it is that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from serving.doctor.checks import Check, examine
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
from serving.model_settings import ModelSettings, UseCache
from serving.settings import GatewaySettings, HttpSettings, Settings

GIB = 1 << 30
NOW = 1_800_000_000.0
SETTINGS = Settings(http=HttpSettings(max_connections=1000), gateway=GatewaySettings(replicas=2))
CACHING = Settings(models=(ModelSettings(name="m", versions=("v1",), fallback=(UseCache(max_stale_s=60),)),))
TAKEN = "Address already in use"
WELL = Facts(
    python=(3, 11, 7),
    packages=(PackageFact("ray", "==2.60.0", "2.60.0", fits=True), PackageFact("lmdb", ">=3", "3.1", fits=True)),
    lock=LockFact("/src/requirements.lock", 151),
    running="",
    restore_unfinished=False,
    public=PortFact(8000),
    gateways=tuple(PortFact(port) for port in (8100, 8101, 8102)),
    state=FolderFact("/state", 10 * GIB, 10_000),
    store=FolderFact("/store", 10 * GIB, 10_000),
    log_folder=FolderFact("/log", 10 * GIB, None),
    versions=StoreFact("/store", 4, 5_000_000),
    log=LogFact("/log/events.db", 12, NOW - 5, 12),
    postgres=ServerFact("db:5432", (16, 2)),
    redis=ServerFact("cache:6379", (7, 2, 0)),
    haproxy=ProgramFact("/haproxy", "HAProxy version 2.8"),
    token=TokenFact("/token"),
    files=LimitFact(65_536, 65_536),
    shm=FolderFact("/dev/shm", GIB),  # noqa: S108  # only a name
    sockets=("/tmp/holdfast-1/1.sock",),  # noqa: S108  # likewise
    clock=ClockFact((NOW, NOW + 2), (50.0, 52.0)),
)


def found(name: str, settings: Settings = SETTINGS, **changes: Any) -> Check:
    (check,) = (one for one in examine(settings, WELL._replace(**changes)) if one.name == name)
    return check


def test_all_is_well_where_all_is_well() -> None:
    assert [(check.name, check.advice) for check in examine(SETTINGS, WELL) if check.state != "ok"] == []


def gone(port: PortFact) -> PortFact:
    return port._replace(error=TAKEN, holdfast=False)


ILLS: list[tuple[str, str, str, dict[str, Any]]] = [
    # The check, how bad it is, what of it is seen, and what the matter is.
    ("python", "bad", "3.10.1", {"python": (3, 10, 1)}),
    (
        "packages",
        "bad",
        "ray 2.59.0 (wanted ==2.60.0)",
        {"packages": (PackageFact("ray", "==2.60.0", "2.59.0", False),)},
    ),
    ("packages", "bad", "lmdb is missing", {"packages": (PackageFact("lmdb", ">=3", None, False),)}),
    ("lock", "warn", "b 1 (wanted ==2)", {"lock": LockFact("/l", 9, (PackageFact("b", "==2", "1", False),))}),
    ("running", "bad", "half of a backup", {"restore_unfinished": True}),
    ("http.port", "bad", "another program listens", {"public": PortFact(8000, TAKEN)}),
    ("http.port", "bad", "another Holdfast listens", {"public": PortFact(8000, TAKEN, holdfast=True)}),
    ("http.port", "bad", "another program listens", {"public": PortFact(8000, TAKEN), "running": "one"}),
    ("http.port", "bad", "8000: Cannot assign", {"public": PortFact(8000, "Cannot assign requested address")}),
    ("http.port", "bad", "nobody can reach it", {"running": "one"}),
    (
        "http.gateway_ports",
        "bad",
        "1 free, 2 of others (8101, 8102)",
        {"gateways": (WELL.gateways[0], gone(WELL.gateways[1]), gone(WELL.gateways[2]))},
    ),
    (
        "http.gateway_ports",
        "bad",
        "1 free, 2 of others (8101, 8102)",
        {"running": "one", "gateways": (PortFact(8100), *(PortFact(port, TAKEN, True) for port in (8101, 8102)))},
    ),
    ("http.port", "bad", "another Holdfast", {"public": PortFact(8000, TAKEN, holdfast=True), "running": "one"}),
    ("state_dir folder", "bad", "Read-only", {"state": FolderFact("/state", error="Read-only file system")}),
    ("state_dir folder", "bad", "100 MiB free", {"state": FolderFact("/state", 100 << 20)}),
    ("state_dir folder", "bad", "room for 7 more files", {"state": FolderFact("/state", GIB, 7)}),
    ("state_dir folder", "warn", "500 MiB free", {"state": FolderFact("/state", 500 << 20)}),
    ("store folder", "warn", "Read-only", {"store": FolderFact("/store", error="Read-only file system")}),
    ("event_log folder", "bad", "Read-only", {"log_folder": FolderFact("/log", error="Read-only file system")}),
    ("store digests", "bad", "m@v1: 'a.onnx' has", {"versions": StoreFact("/s", broken=("m@v1: 'a.onnx' has 3",))}),
    ("store digests", "bad", "/s has no m@v2", {"versions": StoreFact("/s", 1, missing=("m@v2",))}),
    ("store digests", "bad", "/s has no models", {"versions": StoreFact("/s")}),
    ("store digests", "bad", "Permission denied", {"versions": StoreFact("/s", error="/s: Permission denied")}),
    ("event log", "bad", "event 3: missing", {"log": LogFact("/l", error="event 3: missing", corrupt=True)}),
    ("event log", "bad", "disk is full", {"log": LogFact("/l", error="disk is full")}),
    ("clock", "bad", "12 was written 1.0 h in the future", {"log": LogFact("/l", 12, NOW + 3602, 12)}),
    ("clock", "bad", "long ago", {"clock": ClockFact((60.0, 61.0), (1.0, 2.0)), "log": LogFact("/l")}),
    ("clock", "warn", "-58.0 s while 2.0 s passed", {"clock": ClockFact((NOW + 60, NOW + 2), (1.0, 3.0))}),
    ("postgresql", "bad", "refused", {"postgres": ServerFact("db", error="connection refused")}),
    ("postgresql", "bad", "version 9.6", {"postgres": ServerFact("db", (9, 6))}),
    ("postgresql", "warn", "version 13.2", {"postgres": ServerFact("db", (13, 2))}),
    ("redis", "warn", "refused", {"redis": ServerFact("cache", error="connection refused")}),
    ("redis", "bad", "version 2.8", {"redis": ServerFact("cache", (2, 8))}),
    ("redis", "warn", "version 5.0", {"redis": ServerFact("cache", (5, 0))}),
    ("haproxy", "bad", "libpcre", {"haproxy": ProgramFact("/h", error="it ends with code 127: libpcre.so")}),
    ("admin token", "bad", "no such file", {"token": TokenFact("/t", error="admin_token_file: /t: no such file")}),
    ("admin token", "warn", "every user of this machine", {"token": TokenFact("/t", open_to_others=True)}),
    ("open files", "bad", "at most 1024", {"files": LimitFact(1024, 1024)}),
    ("open files", "warn", "1024", {"files": LimitFact(1024, 65_536)}),
    ("shared memory", "warn", "64 MiB", {"shm": FolderFact("/dev/shm", 64 << 20)}),  # noqa: S108  # only a name
    ("shared memory", "warn", "no such", {"shm": FolderFact("/dev/shm", error="no such folder")}),  # noqa: S108
    ("socket paths", "bad", "108 bytes", {"sockets": ("/short", "/" + "x" * 107)}),
]


@pytest.mark.parametrize(("name", "state", "seen", "changes"), ILLS)
def test_an_ill_is_named_with_what_to_do(name: str, state: str, seen: str, changes: dict[str, Any]) -> None:
    check = found(name, **changes)
    assert (check.state, seen in check.seen, bool(check.advice)) == (state, True, True), check


def test_there_is_an_ill_for_every_check() -> None:
    assert {check.name for check in examine(SETTINGS, WELL)} == {name for name, *_ in ILLS}


GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("lock", "no requirements.lock", {"lock": LockFact(None)}),
    ("running", "a Holdfast runs", {"running": "a Holdfast runs"}),
    ("http.port", "8000 is ours", {"public": PortFact(8000, TAKEN, True, True), "running": "one"}),
    (
        "http.gateway_ports",
        "1 free, 2 ours",
        {"running": "one", "gateways": (PortFact(1, TAKEN, True, True), PortFact(2, TAKEN, True, True), PortFact(3))},
    ),
    ("event log", "none yet", {"log": LogFact("/l")}),
    ("event log", "300 events, the last 200 verified", {"log": LogFact("/l", 300, NOW, 200)}),
    ("clock", "steady", {"log": LogFact("/l", 1, NOW + 4, 1)}),
    ("admin token", "whoever is on this machine", {"token": TokenFact(None)}),
    ("admin token", "nobody may change", {"token": TokenFact(None, admin_allowed=False)}),
    ("socket paths", "107 of 107", {"sockets": ("/" + "x" * 106,)}),
    ("open files", "2256 are needed", {"files": LimitFact(1256, 2256)}),
]


@pytest.mark.parametrize(("name", "seen", "changes"), GOOD)
def test_what_looks_odd_but_is_well_is_no_ill(name: str, seen: str, changes: dict[str, Any]) -> None:
    check = found(name, **changes)
    assert (check.state, seen in check.seen, check.advice) == ("ok", True, ""), check


def test_a_cache_wants_room_of_its_own() -> None:
    room = FolderFact("/state", GIB + (100 << 20))
    assert found("state_dir folder", state=room).state == "ok"
    assert found("state_dir folder", CACHING, state=room).state == "warn"


def test_what_isnt_used_isnt_looked_at() -> None:
    names = {check.name for check in examine(SETTINGS, WELL._replace(postgres=None, redis=None, log_folder=None))}
    assert names.isdisjoint({"postgresql", "redis", "event_log folder"})


def test_many_faults_are_counted_not_listed() -> None:
    check = found("store digests", versions=StoreFact("/s", broken=tuple(f"m@v{n}" for n in range(9))))
    assert check.seen == "m@v0, m@v1, m@v2, m@v3 and 5 more"
