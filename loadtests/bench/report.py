"""Renders results as Markdown: a section for each payload, made of the same tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtests.bench.results import Key, Ratio, Results, Summary, ratio, summarise
from loadtests.bench.workloads import IN_PROCESS, PAYLOADS, Payload

OURS = "holdfast"
NOTHING = "-"

_ABOUT = """\
# Benchmarks

Every system answers the same requests with the same ONNX models, one model worker each unless its row says otherwise,
one ONNX Runtime thread, all on one machine and in one run. wrk sends the requests over loopback from one thread and
shares the cores with the server. Every system has to give the right numbers before it is measured. How each was set up,
and why so, is at the end, and before that what none of this can show.

**Timings are noisy, and absolute figures drift** from machine to machine and from hour to hour on the same one. What
counts are ratios within one run: all systems take their turn in every round, every second round the other way round,
and a ratio is formed inside a round before the median is taken. Where the brackets of a ratio reach over 1, or it is
nearer to 1 than they are wide, it tells no difference.

Run it yourself: `make bench`, or `python -m loadtests.bench setup`, then `run`, then `report --write-docs`, which
writes this page.
"""

_LEGEND = """\
`c` is the number of connections, each with one request at a time. `failed` counts answers other than 2xx and broken
connections, over all rounds. Ratios are medians of the rounds, lowest and highest in brackets.

**CPU per request** is the user and system time (`/proc/PID/stat`) that the server and all the processes it started used
during a load, divided by the requests it answered. What a system does in the background counts too, which weighs more
the fewer requests there are; wrk doesn't count. **Memory** is of the same processes, with all models loaded: PSS
(`smaps_rollup`, right after the load) counts a page that processes share once, RSS (the peak of samples every half
second) once for each of them. Both are the highest of all rounds.
"""

_LIMITS = """\
## What this can't show

- **Other machines.** Few cores, shared with wrk: a busy server takes its time from the load generator and the other way
  round. With more cores the order may change, above all for systems that scale by more processes. No GPU, no network.
- **Speed at a given rate.** Each connection sends its next request when the last is answered, so a stall holds back
  those who would have measured it, and latency at many connections is mostly waiting in line.
- **The same work.** Holdfast and Triton check every tensor against the model's signature; the others do what their
  scripts here do, which is less. Holdfast's breakers, retries, ejection and fallback are on; what the others have of
  such things, as Ray Serve's router that tries again, is as they ship it. Images travel in the form that each system
  takes, see its settings.
- **Triton at its best.** Its own ONNX Runtime backend, in C++, isn't in the wheel nvidia-pytriton; this is its Python
  backend.
- **Small differences.** A figure is a few seconds of load, and a round is minutes away from the next.
"""


@dataclass(frozen=True)
class Section:
    """What was measured with one payload."""

    payload: Payload
    counts: list[int]
    systems: list[str]
    results: Results
    summaries: dict[Key, Summary]

    def of(self, system: str, connections: int) -> Summary | None:
        return self.summaries.get((system, self.payload.name, connections))

    def values(self, system: str, connections: int, figure: str) -> list[float]:
        """Of each round that has one; a latency only where there were answers."""
        own = [s for s in self.results.samples if (s.system, s.connections) == (system, connections)]
        own = [s for s in own if s.workload == self.payload.name and (s.requests or not figure.endswith("_ms"))]
        return [value for value in (getattr(s, figure) for s in own) if value is not None]

    def ratio(self, system: str, connections: int, figure: str, *, to: str, to_connections: int) -> Ratio | None:
        name = self.payload.name
        return ratio(self.results.samples, (system, name, connections), (to, name, to_connections), figure)


def sections(results: Results) -> list[Section]:
    """One for each payload of which there is at least one figure."""
    summaries = summarise(results.samples)
    found = []
    for name, counts in results.settings["connections"].items():
        systems = list(dict.fromkeys(sample.system for sample in results.samples if sample.workload == name))
        if name in PAYLOADS and systems:
            found.append(Section(PAYLOADS[name], counts, systems, results, summaries))
    return found


def plot_name(payload: Payload) -> str:
    return f"benchmarks-{payload.name}.svg"


def render(results: Results) -> str:
    """The whole page."""
    parts = [_ABOUT, _where(results), _LEGEND]
    for section in sections(results):
        parts += [_head(section), _speed(section), _cost(section), _ratios(section)]
    parts += [_failures(results), _LIMITS, _how(results)]
    return "\n".join(part for part in parts if part)


def _head(section: Section) -> str:
    payload = section.payload
    picture = f"![{payload.title}: requests per second, latency, CPU, memory]({plot_name(payload)})"
    return f"## {payload.title}\n\n{payload.about}\n\n{picture}\n"


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


def _speed(section: Section) -> str:
    counts = section.counts
    header = ["System", *(f"c={c} {what}" for c in counts for what in ("req/s", "p50 ms", "p99 ms")), "failed"]
    alone = IN_PROCESS in section.systems
    if alone:
        header.insert(-1, f"of the model's own rate, c={counts[-1]}")
    rows = []
    for system in section.systems:
        found = [section.of(system, c) for c in counts]
        cells = [
            number(getattr(summary, figure)) if summary else NOTHING
            for summary in found
            for figure in ("per_second", "p50_ms", "p99_ms")
        ]
        if alone:
            c = 1 if system == IN_PROCESS else counts[-1]
            cells.append(_ratio_cell(section.ratio(system, c, "per_second", to=IN_PROCESS, to_connections=1)))
        rows.append([system, *cells, str(sum(summary.failed for summary in found if summary))])
    return f"### Speed\n\n{table(header, rows)}"


def _cost(section: Section) -> str:
    header = ["System", *(f"CPU ms/req c={c}" for c in section.counts), "PSS MB", "peak RSS MB"]
    rows = []
    for system in section.systems:
        if system != IN_PROCESS:
            found = [section.of(system, c) for c in section.counts]
            cells = [number(summary.cpu_s_per_1000 if summary else None) for summary in found]
            rows.append([system, *cells, number(_most(found, _pss_mb)), number(_most(found, _rss_mb))])
    return f"### Cost\n\n{table(header, rows)}" if rows else ""


def _pss_mb(summary: Summary) -> float | None:
    return summary.pss_mb


def _rss_mb(summary: Summary) -> float | None:
    return summary.rss_mb


def _most(found: Sequence[Summary | None], figure: Callable[[Summary], float | None]) -> float | None:
    values = [figure(summary) for summary in found if summary]
    return max((value for value in values if value is not None), default=None)


def _ratios(section: Section) -> str:
    """Ours over theirs. Latency, CPU and memory: lower is better for us. Requests per second: higher is."""
    if OURS not in section.systems:
        return ""
    first, last = section.counts[0], section.counts[-1]
    figures = [
        ("p50_ms", first, f"p50 c={first} (<1 better)"),
        ("p99_ms", last, f"p99 c={last} (<1 better)"),
        *(("per_second", c, f"req/s c={c} (>1 better)") for c in section.counts),
        ("cpu_s_per_1000", last, f"CPU c={last} (<1 better)"),
        ("pss_mb", last, f"PSS c={last} (<1 better)"),
    ]
    rows = [
        [
            system,
            *(_ratio_cell(section.ratio(OURS, c, figure, to=system, to_connections=c)) for figure, c, _ in figures),
        ]
        for system in section.systems
        if system not in (OURS, IN_PROCESS)
    ]
    header = [f"{OURS} / ...", *(title for _, _, title in figures)]
    return f"### Ratios\n\n{table(header, rows)}" if rows else ""


def _ratio_cell(value: Ratio | None) -> str:
    return NOTHING if value is None else f"{number(value.middle)} ({number(value.low)}-{number(value.high)})"


def _failures(results: Results) -> str:
    if not results.failures:
        return ""
    lines = "".join(f"- round {failure.round}, {failure.system}: {failure.reason}\n" for failure in results.failures)
    return f"## Not measured\n\n{lines}"


def _how(results: Results) -> str:
    """Every choice with its source, so that whoever knows better can say so."""
    parts = []
    for name, described in results.settings["systems"].items():
        parts.append(f"- `{name}`: {described['settings']}\n")
        for choice in described["choices"]:
            source = f" ([source]({choice['source']}))" if choice["source"] else ""
            parts.append(f"  - {choice['what']}{source}\n")
    return f"## How each system was run\n\n{''.join(parts)}" if parts else ""
