"""How each of the systems is started. Not here: which of them are compared, and why so (`lineup`)."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.install import MODELS, PEERS, triton_server
from loadtests.bench.server import CLUSTER_TERM_GRACE_S, Launch, make_temp_dir
from loadtests.bench.workloads import Form

ROOT = Path(__file__).parents[2]
READY_TIMEOUT_S = 90.0
GATEWAY_PORTS = 8
CONFIG = "CONFIG"  # stands for the configuration file in --holdfast-cmd

HOLDFAST_CMD = shlex.join([sys.executable, "-m", "serving.cli", "up", "-c", CONFIG])
_PUBLISH = (sys.executable, "-m", "serving.cli", "models", "publish")

# Settings of whoever starts the benchmark must not reach a system under test.
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MODELS_DIR", "OMP_NUM_THREADS")
_DROPPED_PREFIXES = ("RAY_", "MLSERVER_", "BENTOML_", "HOLDFAST_")


@dataclass(frozen=True)
class Place:
    """Where a run happens: its directory, the first of its ports, and the command that starts Holdfast."""

    work: Path
    port_base: int
    holdfast_cmd: str = HOLDFAST_CMD

    def port(self, offset: int) -> int:
        return self.port_base + offset

    def env(self, venv: str, extra: dict[str, str]) -> dict[str, str]:
        """For a peer: the caller's environment without settings, the venv's programs first, where the models are."""
        return _clean_env(self.work / venv / "bin") | {"MODELS_DIR": str(self.work)} | extra

    def program(self, venv: str, name: str) -> str:
        return str(self.work / venv / "bin" / name)

    def log(self, name: str) -> Path:
        return self.work / "logs" / f"{name}.log"


def _clean_env(programs: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in _DROPPED and not k.startswith(_DROPPED_PREFIXES)}
    return kept | {"PATH": f"{programs}{os.pathsep}{kept.get('PATH', os.defpath)}"}


@dataclass(frozen=True)
class Choice:
    """One of a system's settings, and where it is recommended or described."""

    what: str
    source: str = ""


@dataclass(frozen=True)
class System:
    """One row of the tables. `paths` says where each payload goes; `ports` are where it may answer, best first."""

    name: str
    settings: str
    launch: Callable[[Place], Launch]
    ports: Callable[[Place], list[int]]
    paths: Mapping[str, str]
    binary_form: Form = Form.BINARY
    choices: tuple[Choice, ...] = field(default=())


def floor(place: Place) -> Launch:
    port = place.port(300)
    argv = ["uvicorn", "floor_app:app", "--host", "127.0.0.1", "--port", str(port)]
    return Launch(
        argv=[place.program("base", argv[0]), *argv[1:], "--log-level", "warning", "--no-access-log"],
        cwd=PEERS,
        env=place.env("base", {}),
        log=place.log("floor"),
        ports=[port],
    )


def mlserver(place: Place, *, workers: int = 0) -> Launch:
    """With ``workers`` processes for inference; with none it happens in the server's own."""
    http, grpc, metrics = (place.port(offset) for offset in (400, 401, 402))
    settings = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_DEBUG": "false",
        "MLSERVER_PARALLEL_WORKERS": str(workers),
        "MLSERVER_GZIP_ENABLED": "false",
        "MLSERVER_METRICS_ENDPOINT": "",
        "PYTHONPATH": str(PEERS),  # what all peers share
    }
    return Launch(
        argv=[place.program("mlserver", "mlserver"), "start", "."],
        cwd=PEERS / "mlserver",
        env=place.env("mlserver", settings),
        log=place.log(f"mlserver_{workers}"),
        ports=[http, grpc, metrics],
    )


def litserve(place: Place, *, options: Sequence[str]) -> Launch:
    port = place.port(500)
    return Launch(
        argv=[place.program("litserve", "python"), "litserve_app.py", "--port", str(port), *options],
        cwd=PEERS,
        env=place.env("litserve", {}),
        log=place.log("litserve"),
        ports=[port],
    )


def bento(place: Place, *, workers: int = 1) -> Launch:
    port = place.port(600)
    return Launch(
        argv=[place.program("bento", "bentoml"), *shlex.split(f"serve bento_app:Onnx --host 127.0.0.1 --port {port}")],
        cwd=PEERS,
        env=place.env("bento", {"BENTOML_DO_NOT_TRACK": "True", "WORKERS": str(workers)}),
        log=place.log(f"bento_{workers}"),
        ports=[port],
    )


def triton(place: Place) -> Launch:
    http, grpc = place.port(0), place.port(1)
    server = triton_server(place.work)
    packages = server.parent.parent
    options = [
        f"--model-repository={place.work / 'triton-models'}",
        f"--backend-directory={server / 'backends'}",
        *shlex.split(f"--http-address 127.0.0.1 --http-port {http} --grpc-address 127.0.0.1 --grpc-port {grpc}"),
        "--allow-metrics=false",
    ]
    libraries = str(Path(sys.base_prefix) / "lib")  # the stub is linked with libpython
    env = {
        "VIRTUAL_ENV": str(place.work / "triton"),
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": f"{packages}{os.pathsep}{server / 'backends' / 'python'}",
    }
    return Launch(
        argv=[str(server / "bin" / "tritonserver"), *options],
        cwd=place.work,
        env=place.env("triton", env),
        log=place.log("triton"),
        ports=[http, grpc],
    )


def _ray_env(temp_dir: Path) -> dict[str, str]:
    return {"RAY_TMPDIR": str(temp_dir), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def rayserve_default(place: Place) -> Launch:
    temp_dir = make_temp_dir()
    port = place.port(700)
    return Launch(
        argv=_rayserve_argv(place, port, temp_dir),
        cwd=PEERS,
        env=place.env("ray", _ray_env(temp_dir)),
        log=place.log("rayserve"),
        ports=[port],
        temp_dir=temp_dir,
        term_grace_s=CLUSTER_TERM_GRACE_S,
    )


def rayserve_tuned(place: Place) -> Launch:
    return _rayserve_tuned(place, "--tuned")


def rayserve_single(place: Place) -> Launch:
    return _rayserve_tuned(place, "--tuned", "--single")


def _rayserve_tuned(place: Place, *options: str) -> Launch:
    temp_dir = make_temp_dir()
    port, stats, replicas = place.port(800), place.port(801), (place.port(810), place.port(840))
    settings = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 << 20),  # by default 4 MB: eight images are more
        # The rest says where things listen and live, and how long a stop takes.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas[1]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{temp_dir}/haproxy/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{temp_dir}/haproxy/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{temp_dir}/haproxy",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{temp_dir}/haproxy/server-state",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }
    return Launch(
        argv=[*_rayserve_argv(place, port, temp_dir), *options],
        cwd=PEERS,
        env=place.env("ray", _ray_env(temp_dir) | settings),
        log=place.log("rayserve_tuned"),
        ports=[port, stats],
        temp_dir=temp_dir,
        term_grace_s=CLUSTER_TERM_GRACE_S,
    )


def _rayserve_argv(place: Place, port: int, temp_dir: Path) -> list[str]:
    return [place.program("ray", "python"), "rayserve_app.py", f"--port={port}", f"--temp-dir={temp_dir}"]


_SERVE_CONFIG = """\
proxy_location: Disabled
applications:
  - name: holdfast
    import_path: serving.app:build
    route_prefix: /
    args:
      state_dir: {state}
      store: {state}/models
      http: {{host: 127.0.0.1, port: {port}, gateway_ports: [{first}, {last}]}}
      gateway: {{replicas: 1}}
      models:
        - {{name: mlp, versions: [v1], stable: v1}}
        - {{name: wide, versions: [v1], stable: v1}}
        - {{name: orientation, versions: [v1], stable: v1}}
"""


def serve_config(state: Path, *, port: int, gateway_ports: list[int]) -> str:
    """The file that Holdfast is started with; everything not named is its default."""
    return _SERVE_CONFIG.format(state=state, port=port, first=gateway_ports[0], last=gateway_ports[-1])


def gateway_ports(place: Place) -> list[int]:
    return [place.port(110 + replica) for replica in range(GATEWAY_PORTS)]


def holdfast(place: Place) -> Launch:
    """The gateway, its HAProxy and the models; every start has a fresh state directory and store."""
    temp_dir = make_temp_dir()
    config = temp_dir / "serve_config.yaml"
    config.write_text(serve_config(temp_dir, port=place.port(10), gateway_ports=gateway_ports(place)))
    publish = [
        [
            *_PUBLISH,
            str(place.work / f"{name}.onnx"),
            *shlex.split(f"--name {name} --version v1 --store {temp_dir}/models"),
        ]
        for name in MODELS
    ]
    return Launch(
        argv=[str(config) if word == CONFIG else word for word in shlex.split(place.holdfast_cmd)],
        cwd=ROOT,
        env=_clean_env(Path(sys.executable).parent) | _ray_env(temp_dir),
        log=place.log("holdfast"),
        ports=[place.port(10), *gateway_ports(place)],
        temp_dir=temp_dir,
        before=publish,
        term_grace_s=CLUSTER_TERM_GRACE_S,
    )
