"""The rules of ARCHITECTURE.md that import-linter can't express: pure files, a light gateway, an honest package list.

A pattern that matches nothing fails: renaming a pure file must not quietly end its purity.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("serving", "models", "fallbacks", "loadtests")

PURE = (
    "fallbacks/*.py",
    "loadtests/alerts/judging.py",
    "loadtests/alerts/queries.py",
    "loadtests/alerts/rules.py",
    "loadtests/chaos/composed.py",
    "loadtests/chaos/durations.py",
    "loadtests/chaos/faults.py",
    "loadtests/chaos/protections.py",
    "loadtests/chaos/schedule.py",
    "loadtests/chaos/spec.py",
    "loadtests/chaos/stickiness.py",
    "loadtests/chaos/table.py",
    "loadtests/chaos/verdicts.py",
    "loadtests/report/about.py",
    "loadtests/report/bins.py",
    "loadtests/report/errors.py",
    "loadtests/report/faults.py",
    "loadtests/report/figures.py",
    "loadtests/report/labels.py",
    "loadtests/report/markup.py",
    "loadtests/report/panels.py",
    "loadtests/report/paper.py",
    "loadtests/report/scales.py",
    "loadtests/report/summary.py",
    "loadtests/report/tables.py",
    "loadtests/report/texts.py",
    "loadtests/report/timeline.py",
    "loadtests/report/watched.py",
    "loadtests/resilience/figures.py",
    "loadtests/resilience/schedule.py",
    "loadtests/resilience/setups.py",
    "loadtests/resilience/table.py",
    "loadtests/resilience/verdict.py",
    "loadtests/users/load.py",
    "loadtests/users/rows.py",
    "models/errors.py",
    "models/inference.py",
    "models/manifest.py",
    "models/quality.py",
    "models/signature.py",
    "serving/admin/bodies.py",
    "serving/admin/breakers.py",
    "serving/admin/guard.py",
    "serving/backup/contents.py",
    "serving/cache/entry.py",
    "serving/cache/key.py",
    "serving/channel/faults.py",
    "serving/channel/frames.py",
    "serving/channel/pace.py",
    "serving/channel/reports.py",
    "serving/commands/lines.py",
    "serving/commands/screen.py",
    "serving/commands/status_lines.py",
    "serving/commands/terminal.py",
    "serving/doctor/checks.py",
    "serving/doctor/facts.py",
    "serving/errors.py",
    "serving/held.py",
    "serving/incidents/again.py",
    "serving/incidents/incident.py",
    "serving/ingress/bodies.py",
    "serving/ingress/haproxy.py",
    "serving/ingress/http.py",
    "serving/live/events.py",
    "serving/live/heard.py",
    "serving/live/history.py",
    "serving/live/merge.py",
    "serving/live/series.py",
    "serving/live/snapshot.py",
    "serving/live/verdict.py",
    "serving/protocol/**/*.py",
    "serving/request/batch.py",
    "serving/request/breaker.py",
    "serving/request/budget.py",
    "serving/request/circuit*.py",
    "serving/request/ejection.py",
    "serving/request/failures.py",
    "serving/request/limits.py",
    "serving/request/outlier.py",
    "serving/request/priority.py",
    "serving/request/quality.py",
    "serving/request/quantile.py",
    "serving/request/sticky.py",
    "serving/request/trial.py",
    "serving/request/window.py",
    "serving/rollout/analysis.py",
    "serving/rollout/apply.py",
    "serving/rollout/burn_rate.py",
    "serving/rollout/collector.py",
    "serving/rollout/crashes.py",
    "serving/rollout/cursor.py",
    "serving/rollout/decide.py",
    "serving/rollout/desired.py",
    "serving/rollout/event_log.py",
    "serving/rollout/events.py",
    "serving/rollout/evidence.py",
    "serving/rollout/file.py",
    "serving/rollout/history.py",
    "serving/rollout/replay.py",
    "serving/rollout/report.py",
    "serving/rollout/scaling.py",
    "serving/rollout/source.py",
    "serving/rollout/spec.py",
    "serving/rollout/standing.py",
    "serving/rollout/state.py",
    "serving/routing/collected.py",
    "serving/routing/outcomes.py",
    "serving/routing/split.py",
    "serving/routing/table.py",
    "serving/shadow/compare.py",
    "serving/shadow/counts.py",
    "serving/stuck.py",
    "serving/tracing/privacy.py",
    "serving/tracing/rates.py",
    "serving/tracing/spans.py",
    "serving/tracing/w3c.py",
)
IMPURE_MODULES = (
    "asyncio",
    "logging",
    "os",
    "prometheus_client",
    "random",
    "ray",
    "redis",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uvloop",
)

DATA_PLANE = ("request", "channel", "protocol", "ingress", "routing", "cache", "shadow", "incidents", "tracing")
CONTROL_PLANE = ("serving.rollout", "serving.admin")
HEAVY = ("torch", "onnxruntime")

FOREIGN = "loadtests/bench/peers"  # scripts that run inside other serving systems, in their environments


def imported_modules(source: str) -> Iterator[str]:
    """Every module that the source imports anywhere, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    """The imports of a file that are one of the forbidden modules, or inside one."""
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for module in imported_modules(path.read_text())
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


@pytest.mark.parametrize("pattern", PURE)
def test_a_pure_file_imports_no_loop_no_clock_no_chance_and_no_metrics(pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files, f"nothing matches {pattern}: was it renamed?"
    assert [found for file in files for found in violations(file, IMPURE_MODULES)] == []


@pytest.mark.parametrize("package", DATA_PLANE)
def test_the_data_plane_never_imports_the_control_plane(package: str) -> None:
    files = sorted((ROOT / "serving" / package).rglob("*.py"))
    assert files, f"nothing in serving/{package}: was it renamed?"
    assert [found for file in files for found in violations(file, CONTROL_PLANE)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import asyncio.locks",
        "from time import monotonic",
        "from prometheus_client import Counter as Tally",
        "def later():\n    import random",
        "if TYPE_CHECKING:\n    import ray",
    ],
)
def test_the_search_finds_every_way_to_import(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    planted = tmp_path / "planted.py"
    planted.write_text(line)
    assert violations(planted, IMPURE_MODULES)


def test_the_search_leaves_lookalikes_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    planted = tmp_path / "planted.py"
    planted.write_text("import timeit\nfrom serving.rollouts import x\n")
    assert violations(planted, IMPURE_MODULES) == []
    assert violations(planted, CONTROL_PLANE) == []


def modules_of(package: str) -> list[str]:
    """The dotted names of all modules of a package on disk, without the ones that run when imported."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__main__.py"
    ]


@pytest.mark.parametrize("package", ["serving", "fallbacks"])
def test_importing_the_gateway_imports_no_model_runtime(package: str) -> None:
    """A gateway that loaded torch would start seconds later and weigh hundreds of megabytes more."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1].split(','):\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [module for module in {HEAVY!r} if module in sys.modules]\n"
        "    if heavy: sys.exit(f'importing {name} imports {heavy}')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, ",".join(modules_of(package))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_package_list_is_what_is_on_disk() -> None:
    """pyproject.toml names packages one by one; a forgotten one would be missing from what users install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    on_disk = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for init in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == on_disk
    assert len(listed) == len(set(listed))


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    ours = [folder for folder in sorted(folders) if not folder.is_relative_to(ROOT / FOREIGN)]
    assert [str(folder.relative_to(ROOT)) for folder in ours if not (folder / "__init__.py").exists()] == []


def test_the_lock_pins_every_package_for_every_machine() -> None:
    """No CUDA gigabytes, no local builds, no place to download from."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert "torch==2.13.0" in pins
    assert [pin for pin in pins if "==" not in pin or any(sign in pin for sign in ("+", "/", "@", "--"))] == []
    assert [pin for pin in pins if pin.startswith(("nvidia-", "cuda-", "triton=="))] == []
