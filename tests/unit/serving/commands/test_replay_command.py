"""``holdfast replay``: it proves that decisions come out again, names what doesn't, and makes nothing itself."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from serving.cli import main
from serving.commands import replay as replay_command
from serving.rollout.desired import Entry, decode_entry, encode_desired, encode_entry
from serving.rollout.event_log import open_log
from serving.rollout.events import RollBackNow
from serving.rollout.history import Claim, replayed
from serving.settings import Settings
from tests.event_logs import SqlitePlace
from tests.rollouts import rollout_spec, settled

SPEC = rollout_spec(steps="[{setWeight: 5}, {setWeight: 100}]", bake="{duration: 8s}")


def payloads() -> list[bytes]:
    """A rollout that is taken back."""
    return [encode_entry(Entry("digits-1", event)) for event in settled(SPEC, bad=10).events]


ENTRIES = payloads()
LAST = len(ENTRIES) + 1


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    """A controller's log: who writes, and a whole rollout."""
    place = SqlitePlace(tmp_path / "events.db")
    fill(place, ENTRIES)
    return place


def fill(place: SqlitePlace, entries: list[bytes]) -> None:
    log = open_log(place.url)
    log.append("controller", msgspec.json.encode(Claim("one")), wall=1000.0)
    for entry in entries:
        log.append("rollout", entry, wall=1000.0)
    log.close()


def replay(place: SqlitePlace, *arguments: str) -> int:
    return main(["replay", "--log", place.url, *arguments])


def test_all_decisions_of_an_incident_match(place: SqlitePlace, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(place) == 0
    first, state, mark, last = capsys.readouterr().out.splitlines()
    assert first == f"{place.url}: {LAST - 1} events of rollouts up to event {LAST}; 1 more say who wrote"
    assert state.startswith("digits-1  digits  v1 → v2  RolledBack  step 1/2  0 %  evidence ")
    assert mark.startswith("digits@v2 is marked as rolled back: ")
    assert last == "all 4 decisions match byte for byte"


def test_a_replay_ends_where_it_is_told_to(place: SqlitePlace, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(place, "--until", "3") == 0
    _, state, last = capsys.readouterr().out.splitlines()
    assert "Starting" in state
    assert last == "all 1 decisions match byte for byte"


def test_in_json_there_is_everything(place: SqlitePlace, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(place, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rollouts"][0]["phase"] == "RolledBack"
    del told["rollouts"], told["rolled_back"]
    assert told == {
        "log": place.url,
        "exact": True,
        "began_after": 0,
        "seq": LAST,
        "events": LAST - 1,
        "others": {"controller": 1},
        "decisions": 4,
        "mismatches": 0,
        "first": None,
    }


def test_a_log_that_was_compacted_is_replayed_from_its_snapshot(
    place: SqlitePlace, capsys: pytest.CaptureFixture[str]
) -> None:
    log = open_log(place.url)
    for seq in (4, 6):
        log.snapshot(seq, encode_desired(replayed(log, until=seq).desired))
    log.compact(5)
    log.close()
    assert replay(place) == 0
    out = capsys.readouterr().out
    assert f"from the snapshot of event 4 on, {LAST - 4} events" in out
    assert "decisions match byte for byte" in out
    assert replay(place, "--until", "3") == 2
    assert "events before 5 were dropped" in capsys.readouterr().err


def test_a_decision_that_comes_out_differently_is_shown_with_both_and_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = next(place for place, raw in enumerate(ENTRIES) if isinstance(decode_entry(raw).event, RollBackNow))
    entry = decode_entry(ENTRIES[at])
    assert isinstance(entry.event, RollBackNow)
    told = encode_entry(Entry(entry.rollout, msgspec.structs.replace(entry.event, reason="a hunch")))
    place = SqlitePlace(tmp_path / "events.db")
    fill(place, [*ENTRIES[:at], told, *ENTRIES[at + 1 :]])
    assert replay(place) == 1
    *_, first, recorded, now = capsys.readouterr().out.splitlines()
    assert first == f"event {at + 2} isn't what is decided now, the first of 2:"
    assert recorded == f"  recorded  {told.decode()}"
    assert now == f"  now       {ENTRIES[at].decode()}"
    assert replay(place, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["exact"] is False
    assert document["first"] == {"seq": at + 2, "recorded": told.decode(), "recomputed": ENTRIES[at].decode()}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE holdfast_events SET payload = x'7b7d' WHERE seq = 4", "event 4: the row was altered"),
        ("DELETE FROM holdfast_events WHERE seq = 4", "event 4: missing"),
        (
            "DELETE FROM holdfast_events WHERE seq = (SELECT max(seq) FROM holdfast_events)",
            f"event {LAST}: missing: the log ends at event {LAST - 1}",
        ),
        ("DROP TABLE holdfast_events", ""),
    ],
)
def test_a_log_that_is_damaged_is_named_and_code_1(
    place: SqlitePlace, capsys: pytest.CaptureFixture[str], damage: str, said: str
) -> None:
    place.sql(damage)
    assert replay(place) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"holdfast replay: {said}")
    assert err.count("\n") == 1


def test_a_file_whose_end_was_torn_off_is_named(place: SqlitePlace, capsys: pytest.CaptureFixture[str]) -> None:
    whole = place.path.read_bytes()
    place.path.write_bytes(whole[: len(whole) // 2])
    assert replay(place) == 1
    assert capsys.readouterr().err.startswith("holdfast replay: ")


def test_an_entry_that_cannot_follow_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = SqlitePlace(tmp_path / "events.db")
    fill(place, [*ENTRIES[:3], ENTRIES[1]])
    assert replay(place) == 1
    assert capsys.readouterr().err.startswith("holdfast replay: event 5: it can't follow what is before it: ")


def test_the_default_is_the_log_of_the_settings(place: SqlitePlace, capsys: pytest.CaptureFixture[str]) -> None:
    config = place.path.parent / "serve.yaml"
    arguments = json.dumps({"state_dir": str(place.path.parent)})
    config.write_text(f"applications: [{{import_path: 'serving.app:build', args: {arguments}}}]")
    assert main(["replay", "-c", str(config)]) == 0
    assert capsys.readouterr().out.startswith(f"{place.url}: ")
    assert Settings(state_dir="/state").event_log_place == "/state/events.db"


@pytest.mark.parametrize("scheme", ["", "sqlite://"])
def test_where_there_is_no_log_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str) -> None:
    assert main(["replay", "--log", f"{scheme}{tmp_path}/state/events.db"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == f"holdfast replay: {tmp_path}/state/events.db: there is no event log\n"


@pytest.mark.parametrize("statement", ["CREATE TABLE notes (text TEXT)", "SELECT 1"])
def test_a_file_that_is_no_log_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    other = SqlitePlace(tmp_path / "notes.db")
    other.sql(statement)
    before = other.path.read_bytes()
    assert replay(other) == 2
    assert other.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["notes.db"]
    assert capsys.readouterr().err == f"holdfast replay: {other.path}: there is no event log in this file\n"


def test_a_folder_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--log", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"holdfast replay: {tmp_path}: not a file\n"


def test_a_log_where_nobody_may_look_is_named_and_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / ("x" * 300) / "events.db"  # not even root may
    assert main(["replay", "--log", str(place)]) == 1
    assert capsys.readouterr().err == f"holdfast replay: {place}: File name too long\n"


def test_a_url_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--log", "mysql://here/there"]) == 2
    assert "not mysql://" in capsys.readouterr().err


def test_an_event_that_is_not_there_yet_is_refused(place: SqlitePlace, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(place, "--until", "99") == 2
    assert capsys.readouterr() == ("", f"holdfast replay: there is no event 99: the log ends with event {LAST}\n")


@pytest.mark.parametrize("until", ["0", "-1", "many", "1.5"])
def test_an_event_has_a_number(place: SqlitePlace, capsys: pytest.CaptureFixture[str], until: str) -> None:
    with pytest.raises(SystemExit) as caught:
        replay(place, "--until", until)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: holdfast replay")


def test_a_replay_changes_nothing(place: SqlitePlace) -> None:
    before = place.sql("SELECT * FROM holdfast_events"), place.sql("SELECT * FROM holdfast_snapshots")
    assert replay(place) == 0
    assert (place.sql("SELECT * FROM holdfast_events"), place.sql("SELECT * FROM holdfast_snapshots")) == before


def test_a_log_is_replayed_while_another_process_has_it_open(place: SqlitePlace) -> None:
    writer = open_log(place.url)
    try:
        assert replay(place) == 0
        writer.append("controller", msgspec.json.encode(Claim("one")), wall=1.0)
        assert replay(place, "--until", str(LAST + 1)) == 0
    finally:
        writer.close()


def test_a_password_in_the_url_is_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://anna:hunter2@127.0.0.1:1/holdfast"
    assert main(["replay", "--log", url]) == 1
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_password_in_the_query_is_never_shown(
    place: SqlitePlace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(replay_command, "open_log", lambda *_, **more: open_log(place.url, **more))
    assert main(["replay", "--log", "postgresql:///db?host=/tmp&user=u&password=hunter2", *options]) == 0
    out = capsys.readouterr().out
    assert "postgresql:///db" in out
    assert "hunter2" not in out
