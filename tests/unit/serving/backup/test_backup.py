"""A backup that is restored is what was there: same versions, same log, same decisions. Nothing is ever lost by it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.filesystem import FileSystem
from models.manifest import ModelVersion
from models.registry import Registry
from serving.backup import restoring
from serving.backup.contents import BackupBroken, BackupError, Contents
from serving.backup.making import back_up
from serving.backup.restoring import Restored, restore
from serving.cli import main
from serving.cluster import UNFINISHED_RESTORE, StartError, check_restored, lock_state
from serving.rollout.desired import Entry, encode_entry
from serving.rollout.event_log import open_log
from serving.rollout.history import replayed
from serving.settings import Settings
from tests.event_logs import all_of
from tests.fakes import publish_version
from tests.rollouts import rollout_spec, settled

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ASIDE = ".before-restore-20260301t120000z"
ENTRIES = [encode_entry(Entry("digits-1", event)) for event in settled(rollout_spec(), bad=10).events]
DECISIONS = len(settled(rollout_spec(), bad=10).decisions)
FORMS = ["backup", "backup.tar"]


def holdfast(folder: Path) -> Settings:
    """A Holdfast that has served: two versions, a rollout that was taken back, an answer that was withdrawn."""
    settings = Settings(state_dir=str(folder))
    registry = Registry(settings.store_dir)
    for version in ("v1", "v2"):
        publish_version(registry, "digits", version, f"weights of {version}".encode())
    log = open_log(settings.event_log_place)
    for entry in ENTRIES:
        log.append("rollout", entry, wall=1000.0)
    log.close()
    (folder / "withdrawn.json").write_text('{"sha256:aa":"it was bad"}')
    (folder / "system-id").write_text("0123456789abcdef\n")
    (folder / "cache").mkdir()
    (folder / "cache" / "data.mdb").write_bytes(b"answers")
    (folder / "token").write_text("a-secret-of-sixteen-and-more\n")
    return settings


@pytest.fixture
def served(tmp_path: Path) -> Settings:
    return holdfast(tmp_path / "state")


def made(settings: Settings, target: Path) -> Contents:
    return back_up(settings, target, now=NOW, holdfast="0.1.0")


def put_back(settings: Settings, source: Path, *, force: bool = False, keep_log: bool = False) -> Restored:
    return restore(settings, source, now=NOW, force=force, keep_log=keep_log)


def wiped(settings: Settings) -> None:
    shutil.rmtree(settings.state_dir)


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but locks and what SQLite keeps beside a file while it is open."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock") and not path.name.endswith(("-wal", "-shm"))
    }


# There and back


@pytest.mark.parametrize("form", FORMS)
def test_what_was_wiped_is_there_again_as_it_was(served: Settings, tmp_path: Path, form: str) -> None:
    events, registry = all_of(served.event_log_place), Registry(served.store_dir)
    digests = {str(name): registry.manifest(*name).digest for name in registry.versions()}
    contents = made(served, tmp_path / form)
    wiped(served)
    done = put_back(served, tmp_path / form)
    assert {str(name): registry.verify(*name).digest for name in registry.versions()} == digests == contents.versions
    assert all_of(served.event_log_place) == events
    assert (done.decisions, done.mismatches, done.aside) == (DECISIONS, 0, [])
    state = Path(served.state_dir)
    assert (state / "withdrawn.json").read_text() == '{"sha256:aa":"it was bad"}'
    assert (state / "system-id").read_text() == "0123456789abcdef\n"
    assert not list(state.glob(f"*{UNFINISHED_RESTORE}*"))
    assert not list(tmp_path.rglob(".restoring"))


@pytest.mark.parametrize("form", FORMS)
def test_a_backup_may_be_named_from_where_one_is(
    served: Settings, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made(served, Path(form))
    wiped(served)
    put_back(served, Path(form))
    assert len(all_of(served.event_log_place)) == len(ENTRIES)


def test_the_log_goes_on_where_the_backup_ended(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    wiped(served)
    put_back(served, tmp_path / "b.tar")
    log = open_log(served.event_log_place, create=False)
    assert log.append("controller", b"{}", wall=2000.0).seq == len(ENTRIES) + 1
    log.close()


def test_a_restored_log_whose_end_is_cut_off_is_noticed(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    wiped(served)
    put_back(served, tmp_path / "b.tar")
    with sqlite3.connect(served.event_log_place) as database:
        database.execute("DELETE FROM holdfast_events WHERE seq = ?", [len(ENTRIES)])
    database.close()
    assert main(["replay", "--log", served.event_log_place]) == 1


def test_a_log_that_was_compacted_comes_back_with_its_snapshot(served: Settings, tmp_path: Path) -> None:
    from serving.rollout.desired import encode_desired

    log = open_log(served.event_log_place)
    log.snapshot(4, encode_desired(replayed(log, until=4).desired))
    log.compact(5)
    log.close()
    made(served, tmp_path / "b")
    wiped(served)
    put_back(served, tmp_path / "b")
    assert [event.seq for event in all_of(served.event_log_place)] == list(range(5, len(ENTRIES) + 1))
    assert main(["replay", "--log", served.event_log_place]) == 0


def test_a_backup_is_one_moment_of_a_log_that_is_written_meanwhile(served: Settings, tmp_path: Path) -> None:
    stop, log = threading.Event(), open_log(served.event_log_place)

    def write() -> None:
        while not stop.is_set():
            log.append("controller", b"{}", wall=2000.0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        ends = [made(served, tmp_path / f"{number}.tar").log for number in range(5)]
    finally:
        stop.set()
        writer.join()
        log.close()
    numbers = [end.seq for end in ends if end is not None]
    assert len(numbers) == 5
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1], "nothing was written meanwhile, so nothing was shown"
    wiped(served)
    put_back(served, tmp_path / "2.tar")
    assert len(all_of(served.event_log_place)) == numbers[2]


def test_secrets_and_the_cache_are_in_no_backup(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b")
    names = files_of(tmp_path / "b")
    assert {name for name in names if not name.startswith("models/")} == {
        "backup.json",
        "events.db",
        "system-id",
        "withdrawn.json",
    }
    assert not any(b"a-secret-of-sixteen" in raw or b"answers" in raw for raw in names.values())


def test_only_its_owner_can_read_a_backup(served: Settings, tmp_path: Path) -> None:
    for form in FORMS:
        made(served, tmp_path / form)
        assert (tmp_path / form).stat().st_mode & 0o077 == 0


def test_a_holdfast_that_never_ran_has_no_log_to_back_up(tmp_path: Path) -> None:
    fresh = Settings(state_dir=str(tmp_path / "state"))
    publish_version(Registry(fresh.store_dir), "digits", "v1")
    assert made(fresh, tmp_path / "b.tar").log is None
    assert not Path(fresh.event_log_place).exists(), "a backup made a log"
    wiped(fresh)
    assert put_back(fresh, tmp_path / "b.tar").contents.versions.keys() == {"digits@v1"}


# What isn't backed up


def test_a_damaged_version_is_left_out_and_told_and_all_others_are_kept(
    served: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (served.store_dir / "digits" / "v2" / "model.onnx").write_bytes(b"rotten")
    config = tmp_path / "serve.yaml"
    arguments = {"state_dir": served.state_dir}
    config.write_text(json.dumps({"applications": [{"import_path": "serving.app:build", "args": arguments}]}))
    assert main(["backup", "-c", str(config), str(tmp_path / "b.tar")]) == 1
    assert "digits@v2 is NOT in the backup: digits@v2: 'model.onnx' has 6 bytes" in capsys.readouterr().err
    wiped(served)
    assert put_back(served, tmp_path / "b.tar").contents.versions.keys() == {"digits@v1"}


def test_a_log_whose_chain_is_broken_is_not_called_a_backup(served: Settings, tmp_path: Path) -> None:
    with sqlite3.connect(served.event_log_place) as database:
        database.execute("UPDATE holdfast_events SET payload = x'00' WHERE seq = 3")
    database.close()
    for form in FORMS:
        with pytest.raises(BackupError, match="event 3: the row was altered"):
            made(served, tmp_path / form)
    assert {path.name for path in tmp_path.iterdir()} == {"state"}, "something was left of it"


@pytest.mark.parametrize("form", FORMS)
def test_a_backup_never_replaces_something(served: Settings, tmp_path: Path, form: str) -> None:
    (tmp_path / form).write_text("precious")
    with pytest.raises(BackupError, match="something is there already"):
        made(served, tmp_path / form)
    assert (tmp_path / form).read_text() == "precious"


@pytest.mark.parametrize(
    ("target", "said"),
    [("b.tar.gz", "compress that as you like"), ("no/where/b.tar", "there is no folder"), ("state/models/b", "model")],
)
def test_a_place_that_makes_no_sense_is_refused(served: Settings, tmp_path: Path, target: str, said: str) -> None:
    with pytest.raises(BackupError, match=said):
        made(served, tmp_path / target)


# What is there already


def test_what_is_there_is_left_alone_without_force(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    before = files_of(Path(served.state_dir))
    with pytest.raises(BackupError, match=r"nothing was changed: .*models/digits, .*cache, .*events\.db; --force"):
        put_back(served, tmp_path / "b.tar")
    assert files_of(Path(served.state_dir)) == before


def test_with_force_it_is_moved_aside_whole(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    state = Path(served.state_dir)
    publish_version(Registry(served.store_dir), "newer", "v1")
    log = open_log(served.event_log_place)
    newest = log.append("controller", b"{}", wall=3000.0)
    log.close()
    (state / "withdrawn.json").write_text("{}")
    done = put_back(served, tmp_path / "b.tar", force=True)
    assert set(done.aside) == {str(state / ASIDE), str(state / "models" / ASIDE)}
    assert {name.model for name in Registry(served.store_dir).versions()} == {"digits"}
    Registry(state / "models" / ASIDE).verify("newer", "v1")
    assert all_of(str(state / ASIDE / "events.db"))[-1] == newest
    assert (state / ASIDE / "withdrawn.json").read_text() == "{}"
    assert (state / ASIDE / "cache" / "data.mdb").read_bytes() == b"answers"
    assert not (state / "cache").exists(), "answers of versions that were withdrawn since might be given again"
    assert len(all_of(served.event_log_place)) == len(ENTRIES)


def test_a_log_that_is_newer_can_be_kept(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    log = open_log(served.event_log_place)
    newest = log.append("controller", b"{}", wall=3000.0)
    log.close()
    shutil.rmtree(served.store_dir)
    (Path(served.state_dir) / "withdrawn.json").write_text('{"sha256:bb":"later"}')
    put_back(served, tmp_path / "b.tar", keep_log=True)
    assert all_of(served.event_log_place)[-1] == newest
    Registry(served.store_dir).verify("digits", "v2")
    assert (Path(served.state_dir) / "withdrawn.json").read_text() == '{"sha256:bb":"later"}'


def test_nothing_is_restored_under_a_holdfast_that_runs(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    with lock_state(served), pytest.raises(BackupError, match="another Holdfast uses"):
        put_back(served, tmp_path / "b.tar", force=True)


# What can go wrong


def spoiled(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Another tar file with what ``change`` makes of the files."""
    with tarfile.open(source) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    change(files)
    with tarfile.open(target, "w") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def rewritten(files: dict[str, bytes], **changes: Any) -> None:
    files["backup.json"] = json.dumps(json.loads(files["backup.json"]) | changes).encode()


def renamed(files: dict[str, bytes]) -> None:
    text = files["backup.json"].decode().replace("models/digits/v2/model.onnx", "models/../../../evil")
    files["backup.json"] = text.encode()


SPOILED: list[tuple[Callable[[dict[str, bytes]], Any], str]] = [
    (lambda files: files.pop("backup.json"), r"there is no backup\.json in it"),
    (lambda files: files.update({"backup.json": b"{"}), r"backup\.json can't be read"),
    (lambda files: rewritten(files, format=2), "format 2"),
    (lambda files: files.pop("events.db"), r"events\.db is missing"),
    (lambda files: files.update(extra=b"?"), "'extra' is in the backup, but isn't named"),
    (lambda files: files.update({"events.db": files["events.db"][:-1]}), r"events\.db has \d+ bytes, \d+ were written"),
    (lambda files: files.update({"system-id": b"x" * 17}), "system-id isn't what was written"),
    (renamed, "has no place in a backup"),
    (lambda files: rewritten(files, log={"seq": 2, "hash": "aa"}), "ends at event 10, not at 2"),
    (lambda files: rewritten(files, log=None), "contradicts itself"),
    (lambda files: rewritten(files, versions={}), "versions aren't those of its files"),
]


@pytest.mark.parametrize(("change", "said"), SPOILED)
def test_a_backup_that_was_altered_is_refused_and_nothing_changes(
    served: Settings, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    made(served, tmp_path / "b.tar")
    spoiled(tmp_path / "b.tar", tmp_path / "spoiled.tar", change)
    before = files_of(Path(served.state_dir))
    with pytest.raises(BackupBroken, match=said.replace("event 10", f"event {len(ENTRIES)}")):
        put_back(served, tmp_path / "spoiled.tar", force=True)
    assert files_of(Path(served.state_dir)) == before


def test_what_was_altered_together_with_its_digest_is_found_by_the_chain_and_the_manifests(
    served: Settings, tmp_path: Path
) -> None:
    made(served, tmp_path / "b")
    for name, damage, said in (
        ("events.db", None, "event 3: the row was altered"),
        ("models/digits/v1/model.onnx", b"evil", "digits@v1: 'model.onnx' has"),
    ):
        target = tmp_path / "spoiled"
        shutil.copytree(tmp_path / "b", target)
        if damage is None:
            with sqlite3.connect(target / name) as database:
                database.execute("UPDATE holdfast_events SET payload = x'00' WHERE seq = 3")
            database.close()
        else:
            (target / name).write_bytes(damage)
        contents = msgspec.json.decode((target / "backup.json").read_bytes(), type=Contents)
        digest, size = FileSystem().digest(target / name)
        files = tuple(
            msgspec.structs.replace(file, sha256=digest, size_bytes=size) if file.path == name else file
            for file in contents.files
        )
        (target / "backup.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(contents, files=files)))
        with pytest.raises(BackupBroken, match=said):
            put_back(served, target, force=True)
        shutil.rmtree(target)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_tar_file_with_links_or_devices_is_refused(served: Settings, tmp_path: Path, kind: bytes) -> None:
    made(served, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar", "a") as tar:
        info = tarfile.TarInfo("models/digits/v1/link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(BackupBroken, match="no plain file"):
        put_back(served, tmp_path / "b.tar", force=True)


def test_a_folder_with_links_is_refused(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b")
    (tmp_path / "b" / "system-id").unlink()
    (tmp_path / "b" / "system-id").symlink_to("/etc/hostname")
    with pytest.raises(BackupBroken, match="'system-id' is no plain file"):
        put_back(served, tmp_path / "b", force=True)


@pytest.mark.parametrize("kept", [0, 100, 1024, 5000])
def test_a_tar_file_whose_end_is_missing_is_refused(served: Settings, tmp_path: Path, kept: int) -> None:
    made(served, tmp_path / "b.tar")
    raw = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(raw[:kept])
    with pytest.raises(BackupBroken):
        put_back(served, tmp_path / "cut.tar", force=True)


@pytest.mark.parametrize("kept", [20, 2000, None])
def test_a_backup_that_was_packed_is_restored_too_unless_it_is_damaged(
    served: Settings, tmp_path: Path, kept: int | None
) -> None:
    made(served, tmp_path / "b.tar")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress((tmp_path / "b.tar").read_bytes())[:kept])
    wiped(served)
    if kept is None:
        assert len(put_back(served, tmp_path / "b.tar.gz").contents.versions) == 2
        return
    with pytest.raises(BackupBroken, match="not a tar file, or a damaged one"):
        put_back(served, tmp_path / "b.tar.gz")


def test_a_backup_that_isnt_there_is_named(served: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no such backup"):
        put_back(served, tmp_path / "nothing.tar")


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_restore_that_fails_on_the_way_takes_everything_back(
    served: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(served, tmp_path / "b.tar")
    before = files_of(Path(served.state_dir))

    monkeypatch.setattr(restoring, "note_written", full)  # the very last step
    with pytest.raises(BackupError, match="No space left on device"):
        put_back(served, tmp_path / "b.tar", force=True)
    assert files_of(Path(served.state_dir)) == before
    assert not list(tmp_path.rglob(ASIDE))
    check_restored(served)


def test_no_holdfast_starts_on_half_of_a_backup_and_the_next_restore_mends_it(
    served: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(served, tmp_path / "b.tar")
    wiped(served)

    class Killed(BaseException):
        """The machine lost power: nothing is tidied up."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(restoring._Placing, "_place_state", killed)
        patched.setattr(restoring._Moves, "undo", killed)
        with pytest.raises(Killed):
            put_back(served, tmp_path / "b.tar")
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "note_written", full)
        with pytest.raises(BackupError):  # another one that fails, and takes back what itself has done
            put_back(served, tmp_path / "b.tar", force=True)
    with pytest.raises(StartError, match=r"a restore into .* was interrupted"):
        check_restored(served)
    put_back(served, tmp_path / "b.tar", force=True)
    check_restored(served)
    assert Registry(served.store_dir).versions() == [ModelVersion("digits", "v1"), ModelVersion("digits", "v2")]
    assert len(all_of(served.event_log_place)) == len(ENTRIES)


def test_an_event_log_whose_url_cant_be_read_stops_a_restore(served: Settings, tmp_path: Path) -> None:
    made(served, tmp_path / "b.tar")
    wiped(served)
    elsewhere = msgspec.structs.replace(served, event_log="postgresql://u:secret@h/db?unheard=of")
    with pytest.raises(BackupError, match=r"^event_log: the URL .* isn't one that PostgreSQL's library can read$"):
        put_back(elsewhere, tmp_path / "b.tar")
    assert Registry(served.store_dir).versions() == []


# PostgreSQL that is gone


def test_a_postgresql_that_is_gone_fails_the_backup_with_its_reason(served: Settings, tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(served, event_log="postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(BackupError, match="the event log: PostgreSQL at 127"):
        made(elsewhere, tmp_path / "b.tar")
    made(served, tmp_path / "b.tar")
    wiped(served)
    with pytest.raises(BackupError, match="PostgreSQL at 127"):
        put_back(elsewhere, tmp_path / "b.tar")
    assert Registry(served.store_dir).versions() == []
