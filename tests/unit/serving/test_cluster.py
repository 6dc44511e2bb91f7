"""What is in the way of starting is said in one line before anything starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from serving.cluster import RAY_ENVIRONMENT, StartError, check_ports, check_restored, lock_state, set_ray_environment
from serving.settings import GatewaySettings, HttpSettings, Settings


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def row() -> Iterator[list[socket.socket]]:
    """Three listeners at ports that follow each other."""
    for first in range(20_000, 60_000, 7):
        with ExitStack() as stack:
            taken = []
            try:
                for port in (first, first + 1, first + 2):
                    listener = stack.enter_context(closing(socket.socket()))
                    listener.bind(("127.0.0.1", port))
                    listener.listen(1)
                    taken.append(listener)
            except OSError:
                continue
            yield taken
            return


def settings(public: int, ports: tuple[int, int], replicas: int = 1) -> Settings:
    return Settings(http=HttpSettings(port=public, gateway_ports=ports), gateway=GatewaySettings(replicas=replicas))


def test_free_ports_are_no_obstacle(row: list[socket.socket]) -> None:
    public, first, last = map(port_of, row)
    for listener in row:
        listener.close()
    check_ports(settings(public, (first, last), 2))
    check_ports(settings(public, (first, last), 2))


def test_a_taken_public_port_is_named(row: list[socket.socket]) -> None:
    public, first, last = map(port_of, row)
    with pytest.raises(
        StartError, match=rf"^http\.port: can't listen on 127\.0\.0\.1:{public}: Address already in use$"
    ):
        check_ports(settings(public, (first, last)))


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(StartError, match=r"^http\.port: can't listen on 192\.0\.2\.1:8000: "):
        check_ports(Settings(http=HttpSettings(host="192.0.2.1")))


def test_as_many_gateway_ports_must_be_free_as_there_are_gateways(row: list[socket.socket]) -> None:
    public, first, last = map(port_of, row)
    row[0].close()
    row[1].close()
    check_ports(settings(public, (first, last), 1))
    with pytest.raises(StartError, match=rf"^http\.gateway_ports: only 1 of {first}-{last} are free for 2 gateways$"):
        check_ports(settings(public, (first, last), 2))


def test_one_holdfast_at_a_time_has_a_state_folder(tmp_path: Path) -> None:
    mine = Settings(state_dir=str(tmp_path / "deep" / "state"))
    with lock_state(mine), pytest.raises(StartError, match=r"^state_dir: another Holdfast uses .*/deep/state$"):
        lock_state(mine)
    lock_state(mine).close()


def test_a_state_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"^state_dir: .*/file/state: Not a directory$"):
        lock_state(Settings(state_dir=str(tmp_path / "file" / "state")))


def test_what_the_environment_says_of_ray_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RAY_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_DEDUP_LOGS", "1")
    set_ray_environment()
    assert {name: os.environ[name] for name in RAY_ENVIRONMENT} == {**RAY_ENVIRONMENT, "RAY_DEDUP_LOGS": "1"}


def test_a_state_folder_that_cant_be_seen_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 300)  # nobody may look there, not even root
    with pytest.raises(StartError, match=rf"^state_dir: {folder}: File name too long$"):
        check_restored(Settings(state_dir=str(folder)))
