"""What the run ran on."""

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_OWN = ("ray", "onnxruntime", "uvicorn")


def describe() -> dict[str, str | int | float]:
    """CPU model, cores this process may use, memory, kernel, Python, and how busy the machine is just now."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def own_versions(root: Path) -> dict[str, str]:
    """What Holdfast runs with, given that it runs with the Python that runs this; and which commit it is."""
    found = {}
    for name in _OWN:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    argv = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found["commit"] = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return found


def _field(file: Path, name: str) -> str | None:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
