"""The scenario in which three times as much is asked as can be answered."""

import asyncio

from loadtests.resilience.client import encode
from loadtests.resilience.figures import Kind, Sample, percentile
from loadtests.resilience.load import closed_loop
from loadtests.resilience.processes import rss_mb
from loadtests.resilience.stage import CLIENT_TIMEOUT_S, REPEATED, Stage
from loadtests.resilience.verdict import Demands

MODEL = "digits-lite"
VERSION = "digits-lite@v1"
MS_PER_ROW = 8
"""Makes the capacity small and known: 125 rows a second, of one replica."""
CLIENTS = 16
FACTOR = 3
DEADLINE_S = 1.0
LATE_S = 0.05
"""An answer may be so much behind its deadline: the wheel's slot, and the way."""
SETTLE_S = 2.0
"""The limit needs a moment to find out what it is up against."""
FLAT_MB = 20.0
FLAT_SHARE = 0.1
PRIORITIES = (1, 2, 3)


async def overload_3x(stage: Stage) -> Demands:
    """What can be answered is, what can't is told so at once, and the important comes first."""
    headers = {"x-request-timeout-us": str(int(DEADLINE_S * 1e6))}
    await stage.fault(VERSION, slow_ms_per_row=MS_PER_ROW)
    path = f"/v2/models/{MODEL}/infer"
    bodies = [encode("POST", path, stage.documents[image], headers) for image in REPEATED]
    peak = await closed_loop(
        stage.system.pool, bodies, clients=CLIENTS, seconds=max(3.0, stage.pace.calm_s), timeout_s=CLIENT_TIMEOUT_S
    )
    stage.note(f"peak {peak:.0f}/s with {CLIENTS} clients; offered {FACTOR * peak:.0f}/s with {DEADLINE_S:g} s each")
    stage.hit(overcome=False)
    memory: list[float] = []
    async with stage.traffic(
        MODEL, stable=(VERSION,), rate=max(1.0, FACTOR * peak), headers=headers, priorities=PRIORITIES
    ) as load:
        while stage.now_s < stage.pace.seconds:
            await asyncio.sleep(0.5)
            memory.append(sum([rss_mb(pid) for pid in await stage.system.gateways()]))
        ended_s = stage.now_s
    await stage.pardon()
    steady = [sample for sample in load.samples if SETTLE_S <= sample.due_s < ended_s - DEADLINE_S]
    _check_goodput(stage, steady, peak, ended_s - DEADLINE_S - SETTLE_S)
    _check_shed(stage, steady)
    _check_priorities(stage, steady)
    _check_memory(stage, memory)
    _check_statuses(stage, load.samples)
    return Demands(client_errors=True)


def _good(sample: Sample) -> bool:
    return sample.kind is Kind.OK and sample.took_s - sample.late_s <= DEADLINE_S + LATE_S


def _check_goodput(stage: Stage, samples: list[Sample], peak: float, seconds: float) -> None:
    goodput = sum(map(_good, samples)) / seconds
    share = goodput / peak if peak else 0.0
    stage.note(f"goodput {goodput:.0f}/s, {share:.0%} of the peak")
    stage.check(share >= stage.pace.goodput, f"goodput is {share:.0%} of the peak, not {stage.pace.goodput:.0%}")


def _check_shed(stage: Stage, samples: list[Sample]) -> None:
    """From when it was sent: how late the load itself was is said beside it."""
    shed = [sample for sample in samples if sample.note == "429"]
    if not shed:
        stage.check(False, "nothing was shed")
        return
    took = [sample.took_s - sample.late_s for sample in shed]
    p99 = percentile(took, 0.99)
    late = percentile([sample.late_s for sample in samples], 0.99)
    stage.note(
        f"{len(shed)} shed: p50 {percentile(took, 0.5) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, "
        f"max {max(took) * 1000:.1f} ms; the load itself was {late * 1000:.1f} ms late (p99)"
    )
    stage.check(p99 <= stage.pace.shed_s, f"p99 of shed answers is {p99 * 1000:.0f} ms")


def _check_priorities(stage: Stage, samples: list[Sample]) -> None:
    shares = []
    for priority in PRIORITIES:
        asked = [sample for sample in samples if sample.priority == priority]
        shares.append(sum(map(_good, asked)) / max(1, len(asked)))
    stage.note(f"answered of priority 1, 2, 3: {', '.join(f'{share:.0%}' for share in shares)}")
    gap = stage.pace.priority_gap
    stage.check(
        shares[0] >= shares[1] - 0.05 and shares[1] >= shares[2] - 0.05 and shares[0] > shares[2] + gap,
        f"high priority isn't served first: {', '.join(f'{share:.0%}' for share in shares)}",
    )


def _check_memory(stage: Stage, memory: list[float]) -> None:
    """A quarter of the time is for buffers and caches to fill."""
    settled = memory[len(memory) // 4]
    grown = max(memory[len(memory) // 4 :]) - settled
    stage.note(f"memory of the gateways {settled:.0f} MB, later at most {grown:.1f} MB more")
    stage.check(grown <= max(FLAT_MB, FLAT_SHARE * settled), f"the gateways' memory grew by {grown:.0f} MB")


def _check_statuses(stage: Stage, samples: list[Sample]) -> None:
    others = sorted({sample.note for sample in samples if sample.kind is Kind.FAILED} - {"429", "503", "504"})
    stage.check(not others, f"failed with {', '.join(others)}, where only 429, 503 and 504 are right")
