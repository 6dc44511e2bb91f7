"""``holdfast doctor`` beside a real system, a real PostgreSQL and a real Redis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.doctor.checks import POSTGRES, REDIS, server
from serving.doctor.probes import find_postgres, find_redis
from serving.settings import Settings
from tests.integration.system import System
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration


def examined(system: System) -> dict[str, dict[str, Any]]:
    done = system.run("doctor", "--json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert (done.returncode == 0) is told["fit"]
    return {check["name"]: check for check in told["checks"]}


def test_beside_a_system_that_runs_its_ports_are_its_own(system: System) -> None:
    checks = examined(system)
    assert "a Holdfast runs; its HAProxy is process" in checks["running"]["seen"]
    assert checks["http.port"] == {"name": "http.port", "state": "ok", "seen": f"{system.port} is ours", "advice": ""}
    assert checks["http.gateway_ports"]["seen"] == f"2 free, {system.gateways} ours"
    assert [check for check in checks.values() if check["state"] == "bad"] == []


def test_a_real_postgresql_tells_its_version() -> None:
    postgres = PostgresServer()
    try:
        fact = find_postgres(Settings(event_log=postgres.url()))
    finally:
        postgres.close()
    assert (fact.error, server("postgresql", fact, POSTGRES).state) == (None, "ok")


async def test_a_real_redis_tells_its_version(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    try:
        await redis.start()
        fact = find_redis(redis.url)
    finally:
        redis.kill()
    assert (fact.error, server("redis", fact, REDIS).state) == (None, "ok")
