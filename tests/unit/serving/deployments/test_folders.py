"""What tells one Holdfast from another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from serving.deployments.folders import known_system_id, system_id, system_mark
from serving.settings import Settings


def test_all_who_ask_at_once_get_the_same_id(tmp_path: Path) -> None:
    settings, start = Settings(state_dir=str(tmp_path / "state")), Barrier(8)

    def ask(_: int) -> str:
        start.wait()
        return system_id(settings)

    assert known_system_id(settings) is None
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(ask, range(8)))
    assert found == {known_system_id(settings)}


def test_a_file_that_holds_nothing_holds_no_id(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path))
    (tmp_path / "system-id").write_text("\n")
    assert len(system_id(settings)) == 32
    assert system_id(settings) == known_system_id(settings)


def test_a_copy_of_a_state_folder_has_gateways_of_its_own() -> None:
    one, copy = Settings(state_dir="/a"), Settings(state_dir="/b")
    assert system_mark(one, "id") == system_mark(one, "id")
    assert len({system_mark(one, "id"), system_mark(copy, "id"), system_mark(one, "other")}) == 3
