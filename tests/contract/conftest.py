from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.event_logs import Place, PostgresPlace, SqlitePlace
from tests.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.thaw()
        server.close()


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    """The server, running, whatever the test before did to it."""
    postgres_server.thaw()
    postgres_server.start()
    return postgres_server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere for a log that isn't there yet."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "folder" / "events.db")
    return PostgresPlace(request.getfixturevalue("postgres"))
