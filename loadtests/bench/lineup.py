"""The systems that are compared, in the order of the tables: where each answers, and why it is set up as it is.

A comparison that flatters Holdfast is a defect, so every peer has settings that its own documentation names for one
model worker on few cores. Where batching helps a busy server and may hurt a quiet one, both are measured. What was only
tried briefly, or not at all, is said so: these are our choices, and whoever knows a better one can change it here.
"""

from collections.abc import Mapping

from loadtests.bench import systems
from loadtests.bench.systems import Choice, System
from loadtests.bench.workloads import PAYLOADS, Form

_SAME = Choice("ONNX Runtime with one thread on the CPU, the same release and the same models as everywhere")
_ONE_ROW = Choice("batching only for the tiny model; what it would do for the others was not tried")


def _paths(pattern: str, **special: str) -> Mapping[str, str]:
    """Where each payload goes: `{}` in the pattern stands for its model."""
    return {payload.name: pattern.format(payload.model) for payload in PAYLOADS.values()} | special


_V2 = _paths("/v2/models/{}/infer")
_PLAIN = _paths("/{}")

_MLSERVER = (
    _SAME,
    Choice(
        "parallel_workers 0, inference in the server's own process: 1 failed to start in the one trial, with the "
        "uvloop that pip chose; an older uvloop was not tried",
        "https://docs.seldon.ai/mlserver/user-guide/parallel-inference",
    ),
    Choice(
        "debug, access log, gzip and metrics are off", "https://docs.seldon.ai/mlserver/reference/mlserver-settings"
    ),
    Choice(
        "images as base64 (BYTES): its REST interface has no binary tensors; its gRPC has, and isn't measured",
        "https://docs.seldon.ai/mlserver/user-guide/content-type",
    ),
)
_LITSERVE = (
    _SAME,
    _ONE_ROW,
    Choice(
        "fast_queue (ZeroMQ), meant for more than 100 requests a second; one worker a model, one API server",
        "https://lightning.ai/docs/litserve/api-reference/litserver",
    ),
    Choice("images as a raw body, which decode_request's annotation asks FastAPI for: it has no binary tensors"),
)
_BENTO = (
    _SAME,
    Choice(
        "one worker; access log, metrics and monitoring are off",
        "https://docs.bentoml.com/en/latest/reference/bentoml/configurations.html",
    ),
    Choice(
        "images through a mounted ASGI application: the API's own file input writes each to a disk",
        "https://docs.bentoml.com/en/latest/build-with-bentoml/asgi.html",
    ),
)
_RAY_TUNED = (
    _SAME,
    Choice(
        "RAY_SERVE_ENABLE_HA_PROXY and RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "https://docs.ray.io/en/master/cluster/kubernetes/user-guides/kuberay-serve-high-throughput.html",
    ),
    Choice("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH 64 MiB: eight images don't fit into Ray's default"),
    Choice(
        "no access log, log level WARNING, no HAProxy metrics, workers not niced (Ray's default is 15)",
        "https://docs.ray.io/en/latest/serve/advanced-guides/performance.html",
    ),
)

SYSTEMS = (
    System(
        name="floor",
        settings="uvicorn and ONNX Runtime in one process, no protection at all: the least a Python server can cost",
        launch=systems.floor,
        ports=lambda place: [place.port(300)],
        paths=_PLAIN,
        choices=(_SAME, Choice("uvloop, httptools and orjson; no access log", "https://www.uvicorn.org/settings/")),
    ),
    System(
        name="mlserver",
        settings="adaptive batching of the tiny model",
        launch=systems.mlserver,
        ports=lambda place: [place.port(400)],
        paths=_V2,
        binary_form=Form.BASE64,
        choices=(
            *_MLSERVER,
            _ONE_ROW,
            Choice(
                "max_batch_size 64, max_batch_time 1 ms",
                "https://docs.seldon.ai/mlserver/user-guide/adaptive-batching",
            ),
        ),
    ),
    System(
        name="mlserver_single",
        settings="the same without batching: nobody waits for company",
        launch=systems.mlserver,
        ports=lambda place: [place.port(400)],
        paths={"mlp": "/v2/models/mlp_single/infer"},
        choices=_MLSERVER,
    ),
    System(
        name="litserve",
        settings="batching of the tiny model",
        launch=systems.litserve,
        ports=lambda place: [place.port(500)],
        paths=_PLAIN,
        binary_form=Form.RAW,
        choices=(
            *_LITSERVE,
            Choice("max_batch_size 64, batch_timeout 1 ms", "https://lightning.ai/docs/litserve/features/batching"),
        ),
    ),
    System(
        name="litserve_single",
        settings="the same without batching",
        launch=systems.litserve_single,
        ports=lambda place: [place.port(500)],
        paths={"mlp": "/mlp"},
        choices=_LITSERVE,
    ),
    System(
        name="bento",
        settings="adaptive batching of the tiny model",
        launch=systems.bento,
        ports=lambda place: [place.port(600)],
        paths=_PLAIN,
        choices=(
            *_BENTO,
            _ONE_ROW,
            Choice(
                "max_batch_size 64; the batch window is BentoML's own to choose",
                "https://docs.bentoml.com/en/latest/guides/adaptive-batching.html",
            ),
        ),
    ),
    System(
        name="bento_single",
        settings="the same without batching, as a coroutine: no thread between",
        launch=systems.bento,
        ports=lambda place: [place.port(600)],
        paths={"mlp": "/mlp_single"},
        choices=_BENTO,
    ),
    System(
        name="rayserve",
        settings="Ray Serve alone: a gateway deployment and one for each model, default settings",
        launch=systems.rayserve_default,
        ports=lambda place: [place.port(700)],
        paths=_PLAIN,
        choices=(_SAME, Choice("defaults", "https://docs.ray.io/en/latest/serve/index.html")),
    ),
    System(
        name="rayserve_tuned",
        settings="the same with HAProxy and optimised for throughput",
        launch=systems.rayserve_tuned,
        ports=lambda place: [place.port(800)],
        paths=_PLAIN,
        choices=(
            *_RAY_TUNED,
            Choice(
                "no serve.batch: in a short trial with the tiny model (64, no waiting) it cost CPU; else untried",
                "https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html",
            ),
        ),
    ),
    System(
        name="rayserve_single",
        settings="as rayserve_tuned, but one deployment reads, predicts and writes: no hop, and no isolation either",
        launch=systems.rayserve_single,
        ports=lambda place: [place.port(800)],
        paths=_PLAIN,
        choices=_RAY_TUNED,
    ),
    System(
        name="triton",
        settings="Triton 2.51, Python backend, dynamic batching",
        launch=systems.triton,
        ports=lambda place: [place.port(0)],
        paths=_V2,
        choices=(
            _SAME,
            Choice(
                "the Python backend: the wheel nvidia-pytriton has no other",
                "https://triton-inference-server.github.io/pytriton/latest/",
            ),
            Choice(
                "dynamic batching without a delay, up to 64 rows (8 wide ones, 16 images)",
                "https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/batcher.html",
            ),
            Choice(
                "metrics off", "https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md"
            ),
        ),
    ),
    System(
        name="holdfast",
        settings="through its HAProxy, one gateway replica",
        launch=systems.holdfast,
        ports=lambda place: [place.port(10)],
        paths=_V2,
        choices=(_SAME, Choice("default settings, all protection and metrics on")),
    ),
    System(
        name="holdfast_direct",
        settings="straight to the gateway replica's own listener",
        launch=systems.holdfast,
        ports=systems.gateway_ports,
        paths=_V2,
        choices=(_SAME, Choice("default settings, all protection and metrics on")),
    ),
)
