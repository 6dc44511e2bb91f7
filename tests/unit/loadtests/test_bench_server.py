import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.bench import process_tree, server
from loadtests.bench.errors import BenchError
from loadtests.bench.server import Launch, Server, busy_ports, make_temp_dir

# Leaves a process in a session of its own that ignores SIGTERM, as a daemon would, then says so in a file and waits.
DAEMON = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = f"""
import pathlib, subprocess, sys, time
daemon = subprocess.Popen([sys.executable, "-c", {DAEMON!r}, sys.argv[1]], start_new_session=True,
                          stdout=subprocess.PIPE)
daemon.stdout.readline()
pathlib.Path(sys.argv[1], "pid.new").write_text(str(daemon.pid))
pathlib.Path(sys.argv[1], "pid.new").rename(pathlib.Path(sys.argv[1], "pid"))
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KILL_GRACE_S", 1.0)


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    directory = make_temp_dir()
    yield directory
    assert not directory.exists()


def launch(tmp_path: Path, *argv: str, temp_dir: Path | None = None, ports: tuple[int, ...] = ()) -> Launch:
    environment = dict(os.environ)
    return Launch(argv, cwd=tmp_path, env=environment, log=tmp_path / "log", ports=ports, temp_dir=temp_dir)


def alive(pid: int) -> bool:
    process = process_tree.read(pid)
    return process is not None and process.state != "Z"


def test_stopping_ends_daemons_in_other_sessions_and_removes_the_temp_dir(tmp_path: Path, temp_dir: Path) -> None:
    with Server("x", launch(tmp_path, sys.executable, "-c", PARENT, str(temp_dir), temp_dir=temp_dir)) as running:
        running.wait(lambda: None if (temp_dir / "pid").exists() else "no daemon", timeout_s=20)
        daemon = int((temp_dir / "pid").read_text())
        assert alive(daemon)
        assert daemon in {process.pid for process in running.tree()}

    assert not alive(daemon)


def test_a_daemon_whose_parent_is_gone_is_found_by_the_temp_dir_on_its_command_line(
    tmp_path: Path, temp_dir: Path
) -> None:
    with Server("x", launch(tmp_path, sys.executable, "-c", PARENT, str(temp_dir), temp_dir=temp_dir)) as running:
        running.wait(lambda: None if (temp_dir / "pid").exists() else "no daemon", timeout_s=20)
        daemon = int((temp_dir / "pid").read_text())
        parent = process_tree.read(daemon)
        assert parent is not None
        os.kill(parent.parent, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while len(running.tree()) > 1 and time.monotonic() < deadline:
            pass

    assert not alive(daemon)


def test_a_process_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as other:
        with Server("x", launch(tmp_path, sys.executable, "-c", "import time; time.sleep(60)")) as running:
            assert other.pid not in {process.pid for process in running.tree()}
        assert alive(other.pid)
        other.kill()


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path, temp_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ours = launch(tmp_path, "no-such-program", ports=(port,), temp_dir=temp_dir)

        with pytest.raises(BenchError, match=f"port {port} of 127.0.0.1 is in use"), Server("x", ours):
            pass

    assert busy_ports([port]) == []


def test_a_server_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    ours = launch(tmp_path, sys.executable, "-c", "raise SystemExit(3)")

    with pytest.raises(BenchError, match=r"x ended with code 3 before it was ready; see .*log"), Server("x", ours) as s:
        s.wait(lambda: "no answer", timeout_s=20)


def test_waiting_has_an_end_and_says_what_was_wrong_last(tmp_path: Path) -> None:
    ours = launch(tmp_path, sys.executable, "-c", "import time; time.sleep(60)")

    with pytest.raises(BenchError, match=r"x not ready after 0\.2 s \(status 503\)"), Server("x", ours) as running:
        running.wait(lambda: "status 503", timeout_s=0.2)


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no-such-program"), Server("x", launch(tmp_path, "no-such-program")):
        pass


def test_a_preparing_command_that_fails_stops_the_start(tmp_path: Path, temp_dir: Path) -> None:
    ours = Launch(
        ["no-such-program"],
        cwd=tmp_path,
        env=dict(os.environ),
        log=tmp_path / "log",
        ports=(),
        temp_dir=temp_dir,
        before=[[sys.executable, "-c", "print('half done'); raise SystemExit(2)"]],
    )

    with pytest.raises(BenchError, match="exit status 2"), Server("x", ours):
        pass

    assert (tmp_path / "log").read_text() == "half done\n"


def test_temp_dirs_leave_room_for_socket_paths() -> None:
    directory = make_temp_dir()
    directory.rmdir()

    assert len(str(directory)) < 20
