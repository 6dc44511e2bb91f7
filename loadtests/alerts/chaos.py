"""Chaos scenarios with a Prometheus beside: the alert that should fire does, and in calm none."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from loadtests.alerts.judging import CALM, Expected, Judged, by_severity, expectations, judge, table
from loadtests.alerts.live import Say
from loadtests.alerts.watch import Watch
from loadtests.chaos import library
from loadtests.chaos.run import THE_END, Failure, Plan, run
from loadtests.chaos.spec import Scenario
from loadtests.resilience.errors import RunError

HERE: Final = Path(__file__).parent


def expected() -> dict[str, Expected]:
    return expectations(yaml.safe_load((HERE / "expected.yaml").read_text()))


def chosen(only: str | None) -> list[Scenario]:
    """Those that are named, else all that alerts are expected of, calm first. Raises `ScenarioError`."""
    names = only.split(",") if only else list(expected())
    return [library.load(str(HERE / "calm.yaml") if name == CALM else name) for name in names]


async def played(scenarios: Sequence[Scenario], *, store: Path, out: Path, seed: int, say: Say) -> list[Judged]:
    """A line for each scenario; what was seen is written to `out`, the table to `table.md` in it."""
    wanted = expected()
    if unknown := [scenario.name for scenario in scenarios if scenario.name not in wanted]:
        raise RunError(f"expected.yaml doesn't say what {', '.join(unknown)} should make fire")
    watch = Watch()
    lines: list[Judged] = []
    plan = Plan(scenarios=scenarios, store=store, out=out, seed=seed)
    async with contextlib.aclosing(run(plan, say, beside=watch.beside)) as results:
        async for result in results:
            if isinstance(result, Failure):
                name, calm_s, trouble = result.name, 0.0, result.why
            else:
                name, calm_s = result.scenario.name, float(result.scenario.calm)
                trouble = "" if result.verdicts[0].held else f"nothing was done: {result.verdicts[0].seen}"
            if name == THE_END:  # how a system ended says nothing of alerts
                say(f"{name}: {trouble}")
                continue
            fired = watch.fired.get(name, [])
            line = judge(name, wanted[name], fired, calm_s=calm_s, trouble=trouble)
            lines.append(line)
            say(f"{name}: {_told(by_severity(fired)) or 'no alert'}; {line.complaint or 'held'}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "alerts.json").write_text(json.dumps(watch.fired, indent=1) + "\n")
    (out / "table.md").write_text(table(lines) + "\n")
    return lines


def _told(seen: Mapping[str, tuple[float, str]]) -> str:
    return ", ".join(f"{name} ({severity}) at {at_s:.1f} s" for name, (at_s, severity) in seen.items())
