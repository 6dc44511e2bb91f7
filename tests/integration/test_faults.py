"""Processes are killed, one kind after the other, and the system answers again by itself."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal

import pytest

from tests.integration.system import BLANK, CONTROL, GATEWAY, HAPROXY, Answer, System, Traffic, eventually

pytestmark = pytest.mark.integration

LITE = "ray::ServeReplica:digits-lite@v1:Model"
DEADLINE_S = 2.0
SLACK_S = 10.0
"""For a machine that has much else to do. Without deadlines, a lost request would hang for minutes."""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def replaced(system: System, title: str, *dead: int, count: int = 1) -> list[int]:
    """The pids of the new processes."""

    def others() -> list[int] | None:
        pids = system.pids(title)
        return pids if len(pids) == count and not set(pids) & set(dead) else None

    pids = eventually(others, lambda: f"{count} new processes are {title}: {system.pids(title)}")
    assert pids is not None
    return pids


def test_a_killed_model_replica_is_replaced_and_no_request_waits_past_its_deadline(system: System) -> None:
    dead = system.pid(LITE)
    with (
        Traffic(system, "digits-lite", timeout_us=int(DEADLINE_S * 1e6)) as hurt,
        Traffic(system, "digits") as unhurt,
    ):
        hurt.wait_for_more()
        kill(dead)
        replaced(system, LITE, dead)
        eventually(lambda: system.infer("digits-lite", BLANK).status == 200, "digits-lite answers again")
        hurt.wait_for_more()
    for failure in hurt.failures():
        assert isinstance(failure, Answer)
        assert failure.status in (503, 504)
        assert failure.error()
    assert max(hurt.seconds) < DEADLINE_S + SLACK_S
    assert unhurt.failures() == []


def test_a_model_replica_that_says_nothing_any_more_is_replaced(system: System) -> None:
    silent = system.pid(LITE)
    os.kill(silent, signal.SIGSTOP)  # as a hang inside C code that keeps Python's lock: not even the watchdog runs
    replaced(system, LITE, silent)
    eventually(lambda: system.infer("digits-lite", BLANK).status == 200, "digits-lite answers again")


def test_a_killed_gateway_is_replaced_and_takes_no_request_and_no_count_with_it(system: System) -> None:
    dead = system.pids(GATEWAY)[0]
    before = system.metrics()
    with Traffic(system, "digits", "digits-lite", "digits@v1") as traffic:
        traffic.wait_for_more()
        kill(dead)
        traffic.wait_for_more(200)
        replaced(system, GATEWAY, dead, count=2)
        eventually(lambda: len(system.gateway_ports()) == 2, "both gateways take requests")
    assert traffic.failures() == []  # HAProxy sends what got no answer to the other one
    now = system.metrics()
    assert not {sample for sample, value in before.items() if sample.counts and now.get(sample, 0) < value}


def test_a_gateway_that_is_told_to_stop_loses_no_request(system: System) -> None:
    told = system.pids(GATEWAY)[0]
    with Traffic(system, "digits", "digits-lite", "digits@v1") as traffic:
        traffic.wait_for_more()
        os.kill(told, signal.SIGTERM)
        replaced(system, GATEWAY, told, count=2)
        eventually(lambda: len(system.gateway_ports()) == 2, "both gateways take requests")
        traffic.wait_for_more()
    assert traffic.failures() == []


def test_a_rolling_restart_replaces_every_gateway_and_loses_no_request(system: System) -> None:
    before = system.pids(GATEWAY)
    with Traffic(system, "digits", "digits-lite", "digits@v1") as traffic:
        traffic.wait_for_more()
        done = system.run("gateways", "restart")
        assert (done.returncode, done.stdout, done.stderr) == (0, "restarted 2 gateways\n", "")
        assert not set(system.pids(GATEWAY)) & set(before)
        assert len(system.gateway_ports()) == 2
        traffic.wait_for_more()
    assert traffic.failures() == []


def attempt(system: System) -> Answer | None:
    """An answer, or None if the connection ended without one."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return system.infer("digits", BLANK)
    return None


def test_without_any_gateway_haproxy_says_so_in_json(system: System) -> None:
    dead = system.pids(GATEWAY)
    for pid in dead:
        kill(pid)
    refused: list[Answer] = []

    def answers_again() -> bool:
        answer = attempt(system)  # HAProxy hangs up on a request that dies with the last gateway
        if answer is not None and answer.status != 200:
            refused.append(answer)
        return answer is not None and answer.status == 200 and bool(refused)

    eventually(answers_again, lambda: f"HAProxy refuses, then gateways are back: {refused[:3]}")
    assert {answer.status for answer in refused} <= {502, 503}
    assert all("gateway" in answer.error() for answer in refused)
    last = refused[-1]
    assert (last.status, last.headers["retry-after"]) == (503, "1")
    replaced(system, GATEWAY, *dead, count=2)


def test_a_killed_haproxy_comes_back(system: System) -> None:
    dead = system.pid(HAPROXY)
    kill(dead)
    replaced(system, HAPROXY, dead)

    eventually(lambda: (answer := attempt(system)) is not None and answer.status == 200, "HAProxy answers again")


def test_without_its_control_plane_the_data_plane_goes_on(system: System) -> None:
    dead = system.pid(CONTROL)
    with Traffic(system, "digits", "digits@v1") as traffic:
        kill(dead)
        traffic.wait_for_more(200)
        replaced(system, CONTROL, dead)
        eventually(lambda: system.unload("digits-lite").status == 200, "commands are carried out again")
        assert "digits-lite@v1" not in system.ready_versions()
        assert system.load("digits-lite").status == 200
        assert system.infer("digits-lite", BLANK).status == 200
    assert traffic.failures() == []
