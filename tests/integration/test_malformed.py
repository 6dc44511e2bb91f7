"""Thousands of requests that nobody may accept, against the running system."""

from __future__ import annotations

import contextlib
import http.client
import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from loadtests.malformed import HttpCase, InputSpec, malformed
from tests.integration.system import BLANK, GATEWAY, HOST, System, request, rss_bytes

pytestmark = pytest.mark.integration

COUNT = 5000
CONNECTIONS = 4
IMAGE = InputSpec("image", "FP32", (-1, 64))


def wrongly_answered(port: int, cases: Iterable[HttpCase]) -> list[str]:
    """What got another status than it deserves, or an error that isn't ours. All on one connection."""
    wrong = []
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=60)) as connection:
        for case in cases:
            answer = request(connection, case.method, case.path, case.body, case.headers)
            if answer.status != case.status or not answer.error():
                wrong.append(f"{case.mistake}: {answer.status}, not {case.status}: {case.path} {case.body[:200]!r}")
    return wrong


def failures(system: System) -> int:
    return sum(entry["inference_stats"]["fail"]["count"] for entry in system.stats("digits", "v2"))


def test_malformed_requests_are_refused_one_and_all_and_leave_no_trace(system: System) -> None:
    failed = failures(system)
    cases = malformed("digits", [IMAGE], seed=20, count=COUNT)
    gateways = system.pids(GATEWAY)
    with ThreadPoolExecutor(CONNECTIONS) as threads:

        def send(count: int) -> list[str]:
            shares = [list(itertools.islice(cases, count // CONNECTIONS)) for _ in range(CONNECTIONS)]
            wrong = threads.map(wrongly_answered, itertools.repeat(system.port), shares)
            return list(itertools.chain.from_iterable(wrong))

        assert send(COUNT // 2) == []  # by now everything that is kept for good is there
        memory = [rss_bytes(pid) for pid in gateways]
        assert send(COUNT // 2) == []
    assert system.pids(GATEWAY) == gateways  # nobody died of it
    grown = [rss_bytes(pid) - before for pid, before in zip(gateways, memory, strict=True)]
    assert max(grown) < 16 << 20, grown
    assert failures(system) == failed
    assert system.infer("digits", BLANK).status == 200
