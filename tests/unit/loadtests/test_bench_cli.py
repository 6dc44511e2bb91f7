import socket
from pathlib import Path

import pytest
import yaml

from loadtests.bench import cli
from loadtests.bench.install import VENVS, missing
from loadtests.bench.lineup import SYSTEMS
from loadtests.bench.systems import System, serve_config
from loadtests.bench.workloads import PAYLOADS


def test_a_run_without_setup_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["run", "--work", str(tmp_path)])

    error = capsys.readouterr().err
    assert status == 1
    assert "triton" in error
    assert "setup" in error
    assert error.count("\n") == 1


def test_a_report_without_results_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_hitting_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    status = cli.main(["hit", f"http://127.0.0.1:{port}/", "--seconds", "1"])

    error = capsys.readouterr().err
    assert status == 1
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--c", "0"], ["--c", "many"], ["--seconds", "0"], ["--only", "nginx"], ["--payloads", "cats"]]
)
def test_a_wrong_argument_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", *arguments])

    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_venv_counts_as_missing_until_its_pins_are_the_ones_asked_for(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / ".installed").write_text("other pins")

    assert set(VENVS) <= set(missing(tmp_path))


def test_the_configuration_is_yaml_that_says_where_to_listen(tmp_path: Path) -> None:
    config = yaml.safe_load(serve_config(tmp_path, port=18010, gateway_ports=[18110, 18111, 18112]))

    assert config["proxy_location"] == "Disabled"
    application = config["applications"][0]
    assert application["import_path"] == "serving.app:build"
    assert application["args"]["http"] == {"host": "127.0.0.1", "port": 18010, "gateway_ports": [18110, 18112]}
    assert [model["name"] for model in application["args"]["models"]] == ["mlp", "wide", "orientation"]


def test_every_system_has_a_name_of_its_own_and_says_its_settings() -> None:
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    assert all(system.settings and system.choices for system in SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_whoever_is_no_variant_for_the_tiny_model_is_measured_with_every_payload(system: System) -> None:
    variant = system.name.endswith("_single") and system.name != "rayserve_single"

    assert set(system.paths) == ({"mlp"} if variant else set(PAYLOADS))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_choice_for_a_peer_but_the_ones_for_all_names_its_source(system: System) -> None:
    assert all(choice.source.startswith("https://") or choice.source == "" for choice in system.choices)
    assert any(choice.source for choice in system.choices) or system.name.startswith("holdfast")
