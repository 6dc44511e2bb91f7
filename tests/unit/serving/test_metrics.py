"""All processes of a node write into one folder, and any of them can show what all of them did.

prometheus_client decides at its import whether it writes to a folder, so every process here is one of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import os, sys
from pathlib import Path
from serving.metrics import *
folder = Path(sys.argv[1])
open_metrics(folder)
"""

GATEWAY = """
from collections import Counter
from types import SimpleNamespace
from serving.request.record import Tally
metrics = GatewayMetrics()
buckets = [0] * (len(LATENCY_BUCKETS_S) + 1)
buckets[0], buckets[-1] = 2, 1
metrics.add_requests(("m", "v1"), Tally(buckets, Counter(ok=2, overloaded=1), 40.0))
metrics.show_lane(("m", "v1"), SimpleNamespace(waiting=5, inflight_batches=2, live_channels=3))
metrics.show_generation(int(sys.argv[2]))
"""

REPLICA = """
metrics = ReplicaMetrics("m", "v1")
metrics.ran(rows=3, seconds=0.002)
metrics.ran(rows=1, seconds=0.0)
metrics.dropped(4)
metrics.failed()
metrics.checked_golden(passed=True)
metrics.checked_golden(passed=False)
metrics.flush()
metrics.flush()
"""

CANARY = """
from serving.routing.outcomes import AtWeight, Counted, SplitOutcomes
metrics = ProtectionMetrics()
def show(epoch, weight, *weights):
    metrics.show_canary(SplitOutcomes("g", 0.0, 1, "m", epoch, "v2", "v1", weight, False, "", weights, (), 0, False))
first = AtWeight(0.1, Counted(9, bad=4, slow=1, invalid=2, repeated=2), Counted(20))
show("r1", 0.1, first)
show("r1", 0.1, first)
show("r1", 0.5, first, AtWeight(0.5, Counted(1), Counted(1, bad=1)))
show("r2", float(sys.argv[2]), AtWeight(0.1, Counted(7), Counted(50)))
"""

INCIDENTS = """
from collections import Counter
from serving.incidents.keeper import KeeperStats
from serving.request.quality import QualityCounts, Violation
kept, values = IncidentMetrics(), QualityMetrics()
stats = KeeperStats(Counter({("m", "model_failed"): 2}), Counter(rate=5), number=40, bytes=9000)
counts = QualityCounts()
counts.add([Violation("x.age", "missing", 3, "")])
for _ in range(2):
    kept.show(stats)
    values.show("m", counts)
stats.kept["m", "model_failed"] += 1
kept.show(stats)
"""

LINES_AND_TRACES = """
from collections import Counter
from serving.tracing.export import ExportStats
from serving.tracing.request_log import LogStats
shown, lines, traces = TracingMetrics(), LogStats(written=5, held_back=95), ExportStats(12, Counter(queue=2))
shown.show(lines, None)
for _ in range(2):
    shown.show(lines, traces)
traces.dropped["queue"] += 1
shown.show(lines, traces)
"""

FLUSH = """
from types import SimpleNamespace
from serving.ingress.front import Reported
from serving.request.record import RequestRecorder
from serving.routing.outcomes import SplitOutcomes
from serving.tracing.request_log import LogStats
canaries = {"m": SplitOutcomes("g", 0.0, 1, "m", "r1", "v2", "v1", 0.25, False, "", (), (), 0, False)}
gateway = SimpleNamespace(
    versions=[],
    planner=SimpleNamespace(models={}, quality={}),
    table=SimpleNamespace(generation=1),
    mirrors=SimpleNamespace(look=lambda: None, all=()),
    models_with_outcomes=canaries.keys(),
    collect_outcomes=lambda model, keys_from: canaries[model],
    canary_weights={"m": 0.25},
)
heard = []
recorder = RequestRecorder(LATENCY_BUCKETS_S)
recorder.record(("m", "v1"), "ok", seconds=0.002)
reported = Reported(
    gateway, recorder, None, lines=LogStats(), hear=lambda tallies, weights: heard.append((tallies, weights))
)
reported.flush()
"""

RENDER = "\nprint(render_metrics(folder).decode())"

WAIT = """
print("there", flush=True)
sys.stdin.read()
"""


def run_in(folder: Path, program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", HEAD + program, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics"


def test_what_all_processes_did_is_added_up_by_any_of_them(folder: Path) -> None:
    run_in(folder, GATEWAY, "7")
    run_in(folder, REPLICA)
    shown = samples(run_in(folder, GATEWAY + RENDER, "9"))
    of = '{model="m",version="v1"}'
    assert shown['holdfast_requests_total{model="m",outcome="ok",version="v1"}'] == 4
    assert shown['holdfast_requests_total{model="m",outcome="overloaded",version="v1"}'] == 2
    assert shown[f"holdfast_request_duration_seconds_count{of}"] == 6
    assert shown[f"holdfast_request_duration_seconds_sum{of}"] == 80
    assert shown['holdfast_request_duration_seconds_bucket{le="0.0005",model="m",version="v1"}'] == 4
    assert shown['holdfast_request_duration_seconds_bucket{le="30.0",model="m",version="v1"}'] == 4
    assert shown['holdfast_request_duration_seconds_bucket{le="+Inf",model="m",version="v1"}'] == 6
    assert shown[f"holdfast_model_compute_seconds_count{of}"] == 2
    assert shown[f"holdfast_model_compute_seconds_sum{of}"] == 0.002
    assert shown[f"holdfast_model_batch_rows_sum{of}"] == 4
    assert shown[f"holdfast_model_dropped_requests_total{of}"] == 4
    assert shown[f"holdfast_model_failures_total{of}"] == 1
    for result in ("passed", "failed"):
        assert shown[f'holdfast_golden_checks_total{{model="m",result="{result}",version="v1"}}'] == 1


def test_refused_changes_are_counted_by_their_reason(folder: Path) -> None:
    program = "metrics = AdminMetrics()\nfor reason in sys.argv[2:]:\n    metrics.refused(reason)"
    run_in(folder, program, "wrong", "origin", "wrong")
    shown = samples(run_in(folder, program + RENDER, "wrong"))
    assert shown['holdfast_admin_refused_total{reason="wrong"}'] == 3
    assert shown['holdfast_admin_refused_total{reason="origin"}'] == 1


def test_the_gauges_of_dead_processes_vanish_and_their_counters_stay(folder: Path) -> None:
    run_in(folder, GATEWAY, "7")
    command = [sys.executable, "-c", HEAD + GATEWAY + WAIT, str(folder), "9"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as alive:
        assert alive.stdout is not None
        assert alive.stdout.readline() == "there\n"
        before = samples(run_in(folder, RENDER))
        after = samples(run_in(folder, "forget_dead_processes(folder)" + RENDER))
        alive.communicate("")
    of = '{model="m",version="v1"}'
    assert (before[f"holdfast_lane_waiting_requests{of}"], after[f"holdfast_lane_waiting_requests{of}"]) == (10, 5)
    assert (before["holdfast_routing_table_generation"], after["holdfast_routing_table_generation"]) == (7, 9)
    assert before[f"holdfast_live_channels{of}"] == 6
    ok = 'holdfast_requests_total{model="m",outcome="ok",version="v1"}'
    assert before[ok] == after[ok] == 4


def test_what_waits_for_the_cache_is_shown_as_it_is_now_and_what_it_did_is_counted(folder: Path) -> None:
    program = (
        "metrics = CacheMetrics()\n"
        "for waits in (5, 3, 5, 0, 4):\n"
        "    metrics.show({'waiting': waits, 'waiting_bytes': 1000 * waits, 'written': 7, 'bytes': 9})\n"
    )
    shown = samples(run_in(folder, program + RENDER))
    assert shown["holdfast_cache_waiting_answers"] == 4
    assert shown["holdfast_cache_waiting_bytes"] == 4000
    assert shown["holdfast_cache_bytes"] == 9
    counted = {name: value for name, value in shown.items() if "operation=" in name}
    assert counted == {'holdfast_cache_operations_total{operation="written"}': 7}


def test_a_gateway_without_a_cache_does_not_say_that_one_is_empty(folder: Path) -> None:
    shown = samples(run_in(folder, "GatewayMetrics(), ProtectionMetrics()" + RENDER))
    assert [name for name in shown if name.startswith("holdfast_cache")] == []


def test_a_version_that_is_no_longer_served_has_nothing_waiting(folder: Path) -> None:
    shown = samples(run_in(folder, GATEWAY + "metrics.drop_lane(('m', 'v1'))" + RENDER, "1"))
    of = '{model="m",version="v1"}'
    for gauge in ("lane_waiting_requests", "lane_inflight_batches", "live_channels"):
        assert shown[f"holdfast_{gauge}{of}"] == 0


MIRROR = """
from types import SimpleNamespace
from serving.shadow.counts import MirrorCounts
metrics = ShadowMetrics()
for mirrored in (1, 5):
    counts = MirrorCounts("m", "s", mirrored=mirrored, dropped={"busy": 2}, failed={"model_failed": mirrored},
        compared_rows=8, agreed_rows=6, disagreed={"nan": 1})
    metrics.show(SimpleNamespace(counts=lambda: counts, held_bytes=100, silent=sys.argv[2] == "silent"))
"""


def test_what_all_mirrors_did_is_added_up_and_one_that_is_silent_is_seen(folder: Path) -> None:
    run_in(folder, MIRROR, "heard")
    program = HEAD + MIRROR + WAIT
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder), "silent"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as alive:
        assert alive.stdout is not None
        assert alive.stdout.readline() == "there\n"
        shown = samples(run_in(folder, RENDER))
        alive.communicate("")
    of = 'model="m"'
    assert shown[f'holdfast_shadow_mirrored_requests_total{{{of},shadow="s"}}'] == 10
    assert shown[f'holdfast_shadow_dropped_requests_total{{{of},reason="busy",shadow="s"}}'] == 4
    assert shown[f'holdfast_shadow_failed_requests_total{{{of},reason="model_failed",shadow="s"}}'] == 10
    assert shown[f'holdfast_shadow_compared_rows_total{{{of},shadow="s"}}'] == 16
    assert shown[f'holdfast_shadow_agreed_rows_total{{{of},shadow="s"}}'] == 12
    assert shown[f'holdfast_shadow_disagreements_total{{{of},reason="nan",shadow="s"}}'] == 2
    assert shown[f'holdfast_shadow_silent{{{of},shadow="s"}}'] == 1


def test_first_attempts_at_a_canary_and_its_stable_version_are_shown_by_how_they_ended(folder: Path) -> None:
    shown = samples(run_in(folder, CANARY + RENDER, "0.25"))
    attempts = {
        (version, outcome): shown.get(
            f'holdfast_canary_attempts_total{{model="m",outcome="{outcome}",version="{version}"}}', 0
        )
        for version in ("v1", "v2")
        for outcome in ("ok", "failed", "slow", "invalid", "repeated")
    }
    assert {key: value for key, value in attempts.items() if value} == {
        ("v2", "ok"): 3 + 1 + 7,
        ("v2", "failed"): 1,
        ("v2", "slow"): 1,
        ("v2", "invalid"): 2,
        ("v2", "repeated"): 2,
        ("v1", "ok"): 20 + 50,
        ("v1", "failed"): 1,
    }
    assert shown['holdfast_canary_weight{model="m",version="v2"}'] == 0.25


def test_incidents_and_values_are_counted_once_by_each_gateway(folder: Path) -> None:
    for name in ("a", "b"):
        run_in(folder, INCIDENTS, name)
    found = samples(run_in(folder, RENDER))
    assert found['holdfast_incidents_kept_total{failure="model_failed",model="m"}'] == 6
    assert found['holdfast_incidents_dropped_total{reason="rate"}'] == 10
    assert found['holdfast_input_quality_violations_total{feature="x.age",kind="missing",model="m"}'] == 6
    assert found['holdfast_input_quality_requests_total{model="m"}'] == 2


def test_the_store_that_all_gateways_share_is_shown_once(folder: Path) -> None:
    found = samples(run_in(folder, INCIDENTS + RENDER))
    assert (found["holdfast_incidents_stored"], found["holdfast_incidents_bytes"]) == (40, 9000)


def test_lines_and_spans_are_counted_once(folder: Path) -> None:
    run_in(folder, LINES_AND_TRACES)
    found = samples(run_in(folder, LINES_AND_TRACES + RENDER))
    assert found["holdfast_request_log_lines_total"] == 10
    assert found["holdfast_request_log_lines_held_back_total"] == 190
    assert found["holdfast_trace_spans_total"] == 24
    assert found['holdfast_trace_requests_dropped_total{reason="queue"}'] == 6


def test_what_is_no_canary_any_more_has_no_weight(folder: Path) -> None:
    weight = 'holdfast_canary_weight{model="m",version="v2"}'
    assert samples(run_in(folder / "a", FLUSH + RENDER))[weight] == 0.25
    assert samples(run_in(folder / "b", FLUSH + "canaries.clear(); reported.flush()" + RENDER))[weight] == 0


PROCESS = """
process = ProcessMetrics("replica", "m", "v1")
process.began()
if sys.argv[2] == "in good order":
    process.ended()
"""


def test_a_process_that_began_and_neither_runs_nor_ended_in_good_order_has_died(folder: Path) -> None:
    run_in(folder, PROCESS, "in good order")
    run_in(folder, PROCESS, "by a signal")
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + PROCESS + WAIT, str(folder), "not yet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as alive:
        assert alive.stdout is not None
        assert alive.stdout.readline() == "there\n"
        run_in(folder, "forget_dead_processes(folder)")
        shown = samples(run_in(folder, RENDER))
        alive.communicate("")
    of = '{kind="replica",model="m",version="v1"}'
    assert shown[f"holdfast_process_starts_total{of}"] == 3
    assert shown[f"holdfast_process_ends_total{of}"] == 1
    assert shown[f"holdfast_processes{of}"] == 1


def test_the_folder_must_be_chosen_before_prometheus_client_is_imported(folder: Path) -> None:
    program = (
        "import prometheus_client\ntry:\n    open_metrics(folder / 'other')\nexcept RuntimeError as e:\n    print(e)"
    )
    assert run_in(folder, program) == "prometheus_client was imported before open_metrics\n"
    assert run_in(folder, "import prometheus_client\nopen_metrics(folder)") == ""


def test_what_is_flushed_is_heard_once_by_who_else_wants_it(folder: Path) -> None:
    told = run_in(folder, FLUSH + "reported.flush()\nprint([(list(tallies), weights) for tallies, weights in heard])")
    assert told.strip() == "[([('m', 'v1')], {'m': 0.25}), ([], {'m': 0.25})]"


def test_failed_golden_checks_of_all_replicas_that_there_were_are_known(folder: Path) -> None:
    assert run_in(folder, "print(golden_failures(folder))").strip() == "{}"
    for _ in range(2):
        run_in(folder, REPLICA)
    assert run_in(folder, "print(golden_failures(folder))").strip() == "{('m', 'v1'): 2}"


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 64, (64).to_bytes(4, "little") + b"\0" * 4 + b"\xff" * 24])
def test_a_file_that_cant_be_read_hides_no_other(folder: Path, content: bytes) -> None:
    run_in(folder, REPLICA)
    (folder / "counter_1.db").write_bytes(content)
    assert run_in(folder, "print(golden_failures(folder))").strip() == "{('m', 'v1'): 1}"
