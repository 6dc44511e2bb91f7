"""A backup doesn't care where the event log was, nor where it goes: what is restored is the same log."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.registry import Registry
from serving.backup.contents import BackupError
from serving.backup.making import back_up
from serving.backup.restoring import Restored, restore
from serving.cli import main
from serving.rollout.desired import Entry, encode_entry
from serving.rollout.event_log import Event, open_log
from serving.settings import Settings
from tests.event_logs import Place, PostgresPlace, SqlitePlace, all_of
from tests.fakes import publish_version
from tests.postgres_server import PostgresServer
from tests.rollouts import rollout_spec, settled

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ENTRIES = [encode_entry(Entry("digits-1", event)) for event in settled(rollout_spec(), bad=10).events]


@pytest.fixture
def events(place: Place) -> list[Event]:
    log = open_log(place.url)
    try:
        return [log.append("rollout", entry, wall=1000.0) for entry in ENTRIES]
    finally:
        log.close()


def holdfast(folder: Path, log: Place) -> Settings:
    return Settings(state_dir=str(folder), event_log=log.url)


@pytest.fixture
def backup(place: Place, events: list[Event], tmp_path: Path) -> Path:
    settings = holdfast(tmp_path / "old", place)
    publish_version(Registry(settings.store_dir), "digits", "v1")
    back_up(settings, tmp_path / "backup.tar", now=NOW, holdfast="0.1.0")
    shutil.rmtree(settings.state_dir)
    return tmp_path / "backup.tar"


def put_back(settings: Settings, backup: Path, *, force: bool = False, keep_log: bool = False) -> Restored:
    return restore(settings, backup, now=NOW, force=force, keep_log=keep_log)


def test_it_becomes_a_file(backup: Path, events: list[Event], tmp_path: Path) -> None:
    new = SqlitePlace(tmp_path / "new" / "log" / "events.db")
    done = put_back(holdfast(tmp_path / "new", new), backup)
    assert (done.decisions > 0, done.mismatches) == (True, 0)
    assert all_of(new.url) == events
    assert main(["replay", "--log", new.url]) == 0


@pytest.mark.integration
def test_it_becomes_tables_in_postgresql(
    backup: Path, events: list[Event], tmp_path: Path, postgres: PostgresServer
) -> None:
    new = PostgresPlace(postgres)
    put_back(holdfast(tmp_path / "new", new), backup)
    assert all_of(new.url) == events
    assert main(["replay", "--log", new.url]) == 0


@pytest.mark.integration
def test_tables_that_are_there_are_left_alone_or_kept_beside(
    backup: Path, events: list[Event], tmp_path: Path, postgres: PostgresServer
) -> None:
    new = PostgresPlace(postgres)
    log = open_log(new.url)
    log.append("controller", b"{}", wall=5.0)
    log.close()
    settings = holdfast(tmp_path / "new", new)
    with pytest.raises(BackupError, match="nothing was changed: postgresql://127"):
        put_back(settings, backup)
    assert len(all_of(new.url)) == 1
    done = put_back(settings, backup, force=True)
    assert all_of(new.url) == events
    (aside,) = done.aside
    assert aside.endswith("holdfast_events_before_restore_20260301t120000z")
    assert new.sql("SELECT kind FROM holdfast_events_before_restore_20260301t120000z") == [("controller",)]


@pytest.mark.integration
def test_a_newer_log_in_a_postgresql_that_survived_is_kept(
    backup: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    new = PostgresPlace(postgres)
    log = open_log(new.url)
    newest = log.append("controller", b"{}", wall=5.0)
    log.close()
    settings = holdfast(tmp_path / "new", new)
    put_back(settings, backup, keep_log=True)
    assert all_of(new.url) == [newest]
    Registry(settings.store_dir).verify("digits", "v1")
