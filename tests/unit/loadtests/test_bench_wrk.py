from pathlib import Path

import pytest

from loadtests.bench import wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.workloads import Body

OUTPUT = """\
Running 2s test @ http://127.0.0.1:18000/v2/models/mlp/infer
  1 threads and 32 connections
Requests/sec:   8547.12
bench {"requests":17112,"duration_us":2002000,"p50_us":3228,"p99_us":10128,"bad_status":3,"socket_errors":1}
"""


def test_the_figures_come_from_the_json_line() -> None:
    load = wrk.parse(OUTPUT)

    assert load == wrk.Load(requests=17112, seconds=2.002, p50_ms=3.228, p99_ms=10.128, bad_status=3, socket_errors=1)
    assert load.per_second == pytest.approx(17112 / 2.002)


def test_a_run_without_result_says_what_wrk_said_last() -> None:
    with pytest.raises(BenchError, match=r"unable to connect to 127\.0\.0\.1:1 Connection refused"):
        wrk.parse("Running\nunable to connect to 127.0.0.1:1 Connection refused\n\n")


def test_no_time_means_no_rate() -> None:
    assert wrk.Load(0, 0.0, 0.0, 0.0, 0, 0).per_second == 0


def test_a_binary_body_carries_its_header_length() -> None:
    body = Body(Path("/b"), "application/octet-stream", header_length=150)

    argv = wrk.command("wrk", "http://127.0.0.1:1/", body, connections=4, seconds=6)

    assert argv[1:4] == ["-t1", "-c4", "-d6s"]
    assert argv[-3:] == ["/b", "application/octet-stream", "150"]


def test_a_fraction_of_a_second_is_a_second_to_wrk() -> None:
    argv = wrk.command("wrk", "http://127.0.0.1:1/", Body(Path("/b"), "application/json"), connections=1, seconds=0.2)

    assert "-d1s" in argv
    assert argv[-1] == "-"


def test_without_wrk_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BenchError, match="apt install wrk"):
        wrk.require_wrk()
