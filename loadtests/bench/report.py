"""Renders results as Markdown."""

from collections.abc import Sequence

from loadtests.bench.results import Key, Ratio, Results, Summary, ratio, summarise
from loadtests.bench.workloads import IN_PROCESS, MLP, ORIENTATION_BATCHES, ORIENTATION_CONNECTIONS, orientation

OURS = "holdfast"
NOTHING = "-"
PLOT = "benchmarks.svg"

_ABOUT = """\
# Benchmarks

Every system answers the same requests with the same ONNX models, one model worker each, one ONNX Runtime thread, all on
one machine and in one run. wrk sends the requests over loopback from one thread and shares the cores with the server.

**Absolute figures drift** from machine to machine and from hour to hour on the same one. What counts are ratios within
one run: all systems take their turn in every round, and a ratio is formed inside a round before the median is taken.
Run it yourself: `python -m loadtests.bench setup`, then `run`, then `report`.
"""

_TINY = f"""\
## Tiny model, JSON

A two-layer network, FP32 [1,64] to [1,10]: the model costs next to nothing, so this is the cost of the server.

![Requests per second and latency]({PLOT})
"""


def render(results: Results) -> str:
    """The whole page."""
    summaries = summarise(results.samples)
    systems = list(dict.fromkeys(sample.system for sample in results.samples if sample.workload == MLP))
    counts: list[int] = results.settings["connections"]
    parts = [
        _ABOUT,
        _where(results),
        _TINY,
        _speed(systems, counts, summaries),
        _cost(systems, counts, summaries),
        _ratios(systems, counts, results),
        _orientation(results, summaries),
        _failures(results),
        _how(systems, results.settings["systems"]),
    ]
    return "\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def number(value: float | None) -> str:
    """Three figures that mean something; thousands apart by a thin blank."""
    if value is None:
        return NOTHING
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{rounded:#.3g}"


def _where(results: Results) -> str:
    machine, settings = results.machine, results.settings
    packages = "".join(
        f"  - {place}: {', '.join(f'{name} {version}' for name, version in versions.items())}\n"
        for place, versions in results.versions.items()
    )
    return (
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"Linux {machine['kernel']}, Python {machine['python']}; load before the run {machine['load_before']}\n"
        f"- Run: {results.started}, {settings['repeat']} rounds, {settings['seconds']} s for each figure; "
        f"medians of the rounds\n- Versions, environment by environment:\n{packages}"
    )


def _speed(systems: list[str], counts: list[int], summaries: dict[Key, Summary]) -> str:
    header = ["System", *(f"c={c} {what}" for c in counts for what in ("req/s", "p50 ms", "p99 ms")), "failed"]
    rows = []
    for system in systems:
        found = [summaries.get((system, MLP, c)) for c in counts]
        cells = [
            number(getattr(summary, figure)) if summary else NOTHING
            for summary in found
            for figure in ("per_second", "p50_ms", "p99_ms")
        ]
        rows.append([system, *cells, str(sum(summary.failed for summary in found if summary))])
    return (
        "### Speed\n\n`c` is the number of connections, each with one request at a time. `failed` counts answers "
        f"other than 2xx and broken connections, over all rounds.\n\n{table(header, rows)}"
    )


def _cost(systems: list[str], counts: list[int], summaries: dict[Key, Summary]) -> str:
    header = ["System", *(f"CPU s/1000 at c={c}" for c in counts), "peak RSS MB"]
    rows = []
    for system in systems:
        found = [summaries.get((system, MLP, c)) for c in counts]
        memory = [summary.rss_mb for summary in found if summary and summary.rss_mb is not None]
        cells = [number(summary.cpu_s_per_1000 if summary else None) for summary in found]
        rows.append([system, *cells, number(max(memory, default=None))])
    return (
        "### Cost\n\nCPU seconds (user and system) for 1000 requests, and resident memory, of the server and all the "
        f"processes it started. Memory shared by processes counts in each of them.\n\n{table(header, rows)}"
    )


def _ratios(systems: list[str], counts: list[int], results: Results) -> str:
    """Ours over theirs. Latency and CPU: lower is better for us. Requests per second: higher is."""
    if OURS not in systems:
        return ""
    figures = [
        ("p50_ms", counts[0], f"p50 c={counts[0]} (<1 better)"),
        *(("per_second", c, f"req/s c={c} (>1 better)") for c in counts),
        ("cpu_s_per_1000", counts[-1], f"CPU c={counts[-1]} (<1 better)"),
    ]
    rows = []
    for system in systems:
        if system != OURS:
            keys = [((OURS, MLP, c), (system, MLP, c), figure) for figure, c, _ in figures]
            rows.append([system, *(_ratio_cell(ratio(results.samples, *key)) for key in keys)])
    header = [f"{OURS} / ...", *(title for _, _, title in figures)]
    return f"### Ratios\n\nMedian of the rounds, lowest and highest in brackets.\n\n{table(header, rows)}"


def _ratio_cell(value: Ratio | None) -> str:
    return NOTHING if value is None else f"{number(value.middle)} ({number(value.low)}-{number(value.high)})"


def _orientation(results: Results, summaries: dict[Key, Summary]) -> str:
    rows = []
    for batch in ORIENTATION_BATCHES:
        workload = orientation(batch)
        alone: Key = (IN_PROCESS, workload, 1)
        for connections in ORIENTATION_CONNECTIONS:
            for system in dict.fromkeys(s.system for s in results.samples if s.workload == workload):
                key: Key = (system, workload, connections)
                summary = summaries.get(key)
                if summary is not None:
                    share = ratio(results.samples, key, alone, "per_second")
                    rows.append(_orientation_row(batch, key, summary, share))
    if not rows:
        return ""
    header = ["System", "batch", "c", "images/s", "p50 ms", "p99 ms", "CPU s/1000", "of the model's own rate", "failed"]
    return (
        "## Real model, binary tensors\n\nAn image orientation network, FP32 [N,3,224,224] to [N,4], 6.8 MB. "
        f"`{IN_PROCESS}` is the model in a plain loop with one thread and nothing around it.\n\n{table(header, rows)}"
    )


def _orientation_row(batch: int, key: Key, summary: Summary, share: Ratio | None) -> list[str]:
    system, _, connections = key
    figures = [summary.per_second * batch, summary.p50_ms, summary.p99_ms, summary.cpu_s_per_1000]
    failed = str(summary.failed)
    return [system, str(batch), str(connections), *map(number, figures), _ratio_cell(share), failed]


def _failures(results: Results) -> str:
    if not results.failures:
        return ""
    lines = "".join(f"- round {failure.round}, {failure.system}: {failure.reason}\n" for failure in results.failures)
    return f"## Not measured\n\n{lines}"


def _how(systems: list[str], settings: dict[str, str]) -> str:
    lines = "".join(f"- `{system}`: {settings[system]}\n" for system in systems if system in settings)
    return f"## How each system was run\n\n{lines}"
