"""A configuration that can't be used is refused in one line that names the file and the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.cluster import StartError
from serving.serve_file import IMPORT_PATH, read_settings

ROOT = Path(__file__).parents[3]


def file_of(folder: Path, *applications: Any) -> Path:
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": list(applications)}))
    return path


def ours(args: Any = None) -> dict[str, Any]:
    application: dict[str, Any] = {"name": "holdfast", "import_path": IMPORT_PATH}
    return application if args is None else {**application, "args": args}


def test_the_one_that_comes_with_holdfast_is_right() -> None:
    assert read_settings(ROOT / "serve_config.yaml").models


def test_folders_are_taken_from_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = file_of(tmp_path, {"import_path": "other:app"}, ours({"http": {"port": 9000}, "state_dir": "state"}))
    settings = read_settings(path)
    assert (settings.http.port, settings.state_dir) == (9000, str(tmp_path / "state"))


def test_without_arguments_everything_has_its_default(tmp_path: Path) -> None:
    assert read_settings(file_of(tmp_path, ours())).http.port == 8000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "applications: a Serve configuration needs this list"),
        (b"applications: 3", "applications: a Serve configuration needs this list"),
        (b"- 1", "applications: a Serve configuration needs this list"),
        (b"applications: []", "applications: 0 of them have import_path serving.app:build; there must be one"),
        (b"applications: [1, null]", "applications: 0 of them have"),
        (b"a: [", "no YAML: "),
        (b"a: !!python/object/apply:os.system [ls]", "no YAML: "),
        (b"\xff\xfe\x00", "not a text file: "),
        (b"applications: [{args: {models: [{versions: [2024-13-45]}]}}]", "line 1: applications[0].args.models[0].ver"),
        (b"applications: !!int ''", "line 1: applications: '': it isn't what its tag says"),
        (b"applications: " + 3000 * b"[", "nested too deeply"),
        (
            b"applications:\n- args:\n    faults: true\n    faults: false",
            "line 4: applications[0].args.faults: stands there twice",
        ),
    ],
)
def test_what_is_no_serve_configuration_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_bytes(text)
    with pytest.raises(StartError) as caught:
        read_settings(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_two_holdfasts_in_one_file_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"applications: 2 of them have import_path"):
        read_settings(file_of(tmp_path, ours(), ours()))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"http": {"prot": 1}}, "http: unknown setting `prot`"),
        ({"models": [{"name": "m", "versions": "v1"}]}, "models[0].versions: Expected `array`, got `str`"),
        ([], "Expected `object`, got `array`"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, args: Any, said: str) -> None:
    path = file_of(tmp_path, ours(args))
    with pytest.raises(StartError) as caught:
        read_settings(path)
    assert str(caught.value) == f"{path}: {said}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"nothing\.yaml: No such file or directory$"):
        read_settings(tmp_path / "nothing.yaml")
    with pytest.raises(StartError, match=r"Is a directory$"):
        read_settings(tmp_path)
