"""The facts are those of the machine: real sockets, files, locks and programs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.registry import Registry
from serving.cluster import lock_state
from serving.deployments.folders import system_id, system_mark
from serving.doctor import probes
from serving.doctor.facts import LogFact
from serving.model_settings import ModelSettings
from serving.rollout.event_log import open_log
from serving.settings import ChannelSettings, Settings
from tests.admin_server import admin_server
from tests.event_logs import SqlitePlace, fill
from tests.fakes import FakeClock, publish_version
from tests.redis_server import free_port

HOST = "127.0.0.1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=str(tmp_path / "state"), models=(ModelSettings(name="m", versions=("v1",)),))


@contextlib.contextmanager
def somebody() -> Iterator[int]:
    """A program that listens and says nothing of use."""
    with contextlib.closing(socket.create_server((HOST, 0))) as listener:
        port: int = listener.getsockname()[1]
        yield port


def test_everything_at_once_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    publish_version(Registry(settings.store_dir), "m", "v1")
    before = sorted(tmp_path.rglob("*"))
    facts = probes.find(settings, FakeClock(), root=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert (facts.versions.good, facts.versions.missing) == (1, ())
    assert "HAProxy version" in facts.haproxy.said
    assert (facts.lock.path, facts.running, facts.log) == (None, "", LogFact(settings.event_log_place))


def test_a_free_port_is_free_and_a_taken_one_says_by_whom() -> None:
    assert probes.find_port(HOST, free_port(), ask=HOST, system=None).error is None
    with somebody() as port, pytest.MonkeyPatch.context() as patched:
        patched.setattr(probes, "ASK_S", 0.05)
        taken = probes.find_port(HOST, port, ask=HOST, system=None)
    assert (taken.error, taken.holdfast) == ("Address already in use", False)


@pytest.mark.parametrize(
    ("answer", "whose"),
    [
        ({"accepting": True, "system": "us"}, (True, True)),
        ({"accepting": True, "system": "them"}, (True, False)),
        ({"accepting": True}, (True, False)),
        ({"error": "no gateway"}, (True, True)),
        ([1], (False, False)),
        (b"<html>", (False, False)),
    ],
)
def test_a_holdfast_is_known_by_what_it_says(answer: object, whose: tuple[bool, bool]) -> None:
    with admin_server() as fake:
        fake.answer = lambda _: (200, answer)
        fact = probes.find_port(HOST, fake.port, ask=HOST, system="us")
    assert (fact.holdfast, fact.ours) == whose


def test_one_that_never_ran_has_no_gateways(settings: Settings) -> None:
    assert probes.find_system(settings) is None
    made = system_id(settings)
    assert probes.find_system(settings) == system_mark(settings, made)
    with admin_server() as fake:
        fake.answer = lambda _: (200, {"accepting": True})
        assert not probes.find_port(HOST, fake.port, ask=HOST, system=None).ours


def test_a_holdfast_that_holds_the_state_folder_runs(settings: Settings) -> None:
    assert probes.find_running(settings) == ""
    with lock_state(settings):
        assert "holds state_dir" in probes.find_running(settings)
    assert probes.find_running(settings) == ""


def test_a_folder_that_will_be_made_is_as_good_as_the_one_it_will_be_in(tmp_path: Path) -> None:
    fact = probes.find_folder(tmp_path / "not" / "yet")
    assert fact.error is None
    assert fact.free_bytes > 0
    (tmp_path / "file").write_text("")
    assert "Not a directory" in str(probes.find_folder(tmp_path / "file" / "state").error)


def test_where_nobody_may_look_is_told(tmp_path: Path) -> None:
    hidden = tmp_path / ("x" * 300)  # not even root may
    facts = probes.find(Settings(state_dir=str(hidden)), FakeClock(), root=tmp_path)
    errors = [facts.state.error, facts.store.error, facts.versions.error, facts.log.error]
    assert [str(error)[-18:] for error in errors] == 4 * ["File name too long"]
    assert (facts.restore_unfinished, facts.log.corrupt) == (False, False)


def test_every_version_is_read(settings: Settings) -> None:
    registry = Registry(settings.store_dir)
    for version in ("v2", "v3"):
        publish_version(registry, "m", version)
    (settings.store_dir / "m" / "v3" / "model.onnx").write_bytes(b"rotten")
    fact = probes.find_versions(settings)
    assert (fact.good, fact.missing) == (1, ("m@v1",))
    assert fact.broken[0].startswith("m@v3: 'model.onnx' has 6 bytes")


def test_the_whole_log_is_read(settings: Settings) -> None:
    place = SqlitePlace(Path(settings.event_log_place))
    log = open_log(place.url)
    last = fill(log, 5)[-1]
    log.close()
    assert probes.find_log(settings) == LogFact(place.url, 5, last.wall, 5)
    place.sql("UPDATE holdfast_events SET wall = 1 WHERE seq = 2")
    fact = probes.find_log(settings)
    assert (fact.corrupt, fact.error) == (True, "event 2: the row was altered: its hash isn't that of its fields")


def test_the_lock_is_compared_with_what_is_installed(tmp_path: Path) -> None:
    text = "# made by make\nmsgspec==0.0.1\n    # via holdfast\nnever-heard-of==1\nnot a pin\n"
    (tmp_path / "requirements.lock").write_text(text)
    fact = probes.find_lock(tmp_path)
    assert fact.pinned == 2
    assert [(one.name, one.wanted, one.fits) for one in fact.others] == [
        ("msgspec", "==0.0.1", False),
        ("never-heard-of", "==1", False),
    ]


def test_what_holdfast_requires_is_there_and_extras_are_nobodys_duty() -> None:
    packages = {one.name: one.fits for one in probes.find_packages()}
    assert {"ray", "torch", "msgspec"} <= packages.keys()
    assert "pytest" not in packages
    assert all(packages.values())
    assert probes.find_packages("never-heard-of")[0].fits is False


def test_servers_that_are_gone_are_told_without_their_passwords() -> None:
    port = free_port()
    redis = probes.find_redis(f"redis://user:secret@{HOST}:{port}/0")
    postgres = probes.find_postgres(Settings(event_log=f"postgresql://user:secret@{HOST}:{port}/db"))
    for fact in (redis, postgres):
        assert fact.error is not None
        assert "secret" not in f"{fact}"
        assert f"{HOST}:{port}" in fact.where


def test_an_event_log_whose_url_cant_be_read_is_told_without_its_password() -> None:
    settings = Settings(event_log="postgresql://u:sec%2Fret@h/db?unheard=of")
    for fact in (probes.find_postgres(settings), probes.find_log(settings)):
        assert fact.error is not None
        assert not any(part in f"{fact}" for part in ("sec", "ret"))


def test_a_redis_whose_url_cant_be_read_is_told_without_its_password() -> None:
    fact = probes.find_redis("redis://:sec/ret@h")
    assert fact.error is not None
    assert not any(part in f"{fact}" for part in ("sec", "ret"))


def test_a_redis_that_talks_nonsense_is_told() -> None:
    with admin_server() as fake:
        assert probes.find_redis(f"redis://{HOST}:{fake.port}").error


def test_a_program_that_doesnt_run_is_told(tmp_path: Path) -> None:
    program = tmp_path / "haproxy"
    assert "No such file" in str(probes.run(program, tmp_path).error)
    program.write_text("#!/bin/sh\necho libpcre.so is missing >&2\nexit 127\n")
    assert "Permission denied" in str(probes.run(program, tmp_path).error)
    program.chmod(0o700)
    assert probes.run(program, tmp_path).error == "it ends with code 127: libpcre.so is missing"


def test_long_folders_make_long_sockets(tmp_path: Path) -> None:
    settings = Settings(channel=ChannelSettings(socket_dir="/" + "s" * 90))
    ours, rays = probes.find_sockets(settings, "/" + "t" * 90)
    assert len(ours) > 107
    assert rays.startswith("/" + "t" * 90 + "/ray/session_")


def test_a_token_is_looked_at_but_never_told(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    fact = probes.find_token(Settings(admin_token_file=str(path)))
    assert (fact.open_to_others, fact.error) == (True, None)
    assert "0123456789abcdef" not in f"{fact}"
    path.write_text("short\n")
    assert "5 characters" in str(probes.find_token(Settings(admin_token_file=str(path))).error)
