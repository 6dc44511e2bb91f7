"""The systems that are compared, in the order of the tables: where each answers, and why it is set up as it is.

A comparison that flatters Holdfast is a defect, so every peer has settings that its own documentation names for one
model worker on few cores. Where batching helps a busy server and may hurt a quiet one, both are measured. What was only
tried briefly, or not at all, is said so: these are our choices, and whoever knows a better one can change it here.
"""

from collections.abc import Mapping
from functools import partial

from loadtests.bench import systems
from loadtests.bench.systems import Choice, System
from loadtests.bench.workloads import PAYLOADS, Form

_SAME = Choice("ONNX Runtime with one thread on the CPU, the same release and the same models as everywhere")
_ONE_ROW = Choice(
    "batching only for the tiny model: eight images in one run of the model take as long as eight runs (in-process, "
    "below each picture), and of the wide model's time nearly all goes into reading JSON, request by request"
)


def _paths(pattern: str, **special: str) -> Mapping[str, str]:
    """Where each payload goes: `{}` in the pattern stands for its model."""
    return {payload.name: pattern.format(payload.model) for payload in PAYLOADS.values()} | special


_V2 = _paths("/v2/models/{}/infer")
_PLAIN = _paths("/{}")

_MLSERVER = (
    _SAME,
    Choice(
        "debug, access log, gzip and metrics are off; uvloop 0.21, for with later ones its workers don't start",
        "https://github.com/SeldonIO/MLServer/issues/2286",
    ),
    Choice(
        "images as base64 (BYTES): its REST interface has no binary tensors; its gRPC has, and isn't measured",
        "https://docs.seldon.ai/mlserver/user-guide/content-type",
    ),
)
_MLSERVER_BATCHING = Choice(
    "max_batch_size 64, max_batch_time 1 ms", "https://docs.seldon.ai/mlserver/user-guide/adaptive-batching"
)
_MLSERVER_PARALLEL = "https://docs.seldon.ai/mlserver/user-guide/parallel-inference"
# Where it says so is the docstring of LitServer.run, which that page is made of.
_LITSERVE_SERVERS = "https://lightning.ai/docs/litserve/api-reference/litserver"
_LITSERVE = (
    _SAME,
    Choice(
        "fast_queue (ZeroMQ), meant for more than 100 requests a second; one worker a model",
        "https://lightning.ai/docs/litserve/api-reference/litserver",
    ),
    Choice("uvloop and httptools; log level warning, so no access log", "https://www.uvicorn.org/settings/"),
    Choice("images as a raw body, which decode_request's annotation asks FastAPI for: it has no binary tensors"),
)
_LITSERVE_ONE = Choice("num_api_servers 1, as many as a model has workers", _LITSERVE_SERVERS)
_LITSERVE_BATCHING = Choice(
    "max_batch_size 64, batch_timeout 1 ms", "https://lightning.ai/docs/litserve/features/batching"
)
_BENTO = (
    _SAME,
    Choice(
        "access log, metrics and monitoring are off; uvloop and httptools",
        "https://docs.bentoml.com/en/latest/reference/bentoml/configurations.html",
    ),
    Choice(
        "images through a mounted ASGI application: the API's own file input writes each to a disk",
        "https://docs.bentoml.com/en/latest/build-with-bentoml/asgi.html",
    ),
)
_BENTO_BATCHING = Choice(
    "max_batch_size 64; the batch window is BentoML's own to choose",
    "https://docs.bentoml.com/en/latest/guides/adaptive-batching.html",
)
_BENTO_WORKERS = "https://docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html"
_RAY_TUNED = (
    _SAME,
    Choice(
        "RAY_SERVE_ENABLE_HA_PROXY and RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html",
    ),
    Choice("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH 64 MiB: eight images don't fit into Ray's default"),
    Choice(
        "no access log, log level WARNING, no HAProxy metrics, workers not niced (Ray's default is 15)",
        "https://docs.ray.io/en/latest/serve/advanced-guides/performance.html",
    ),
)

# Systems with the same launch are the same server, and share its start.
_mlserver_in_process = partial(systems.mlserver, workers=0)
_mlserver_worker = partial(systems.mlserver, workers=1)
_litserve = partial(systems.litserve, options=("--fast-queue",))
_litserve_servers = partial(systems.litserve, options=("--fast-queue", "--servers", "2"))
_litserve_single = partial(systems.litserve, options=("--fast-queue", "--single"))
_bento = partial(systems.bento, workers=1)
_bento_workers = partial(systems.bento, workers=2)

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
        settings="inference in the server's own process, adaptive batching of the tiny model",
        launch=_mlserver_in_process,
        ports=lambda place: [place.port(400)],
        paths=_V2,
        binary_form=Form.BASE64,
        choices=(*_MLSERVER, Choice("parallel_workers 0", _MLSERVER_PARALLEL), _MLSERVER_BATCHING, _ONE_ROW),
    ),
    System(
        name="mlserver_single",
        settings="the same without batching: nobody waits for company",
        launch=_mlserver_in_process,
        ports=lambda place: [place.port(400)],
        paths={"mlp": "/v2/models/mlp_single/infer"},
        choices=(*_MLSERVER, Choice("parallel_workers 0", _MLSERVER_PARALLEL)),
    ),
    System(
        name="mlserver_worker",
        settings="as mlserver, but inference in a process of its own",
        launch=_mlserver_worker,
        ports=lambda place: [place.port(400)],
        paths=_V2,
        binary_form=Form.BASE64,
        choices=(
            *_MLSERVER,
            Choice("parallel_workers 1, the default", _MLSERVER_PARALLEL),
            _MLSERVER_BATCHING,
            _ONE_ROW,
        ),
    ),
    System(
        name="litserve",
        settings="one API server, batching of the tiny model",
        launch=_litserve,
        ports=lambda place: [place.port(500)],
        paths=_PLAIN,
        binary_form=Form.RAW,
        choices=(*_LITSERVE, _LITSERVE_ONE, _LITSERVE_BATCHING, _ONE_ROW),
    ),
    System(
        name="litserve_single",
        settings="the same without batching",
        launch=_litserve_single,
        ports=lambda place: [place.port(500)],
        paths={"mlp": "/mlp"},
        choices=(*_LITSERVE, _LITSERVE_ONE),
    ),
    System(
        name="litserve_servers",
        settings="as litserve, but with two API servers",
        launch=_litserve_servers,
        ports=lambda place: [place.port(500)],
        paths=_PLAIN,
        binary_form=Form.RAW,
        choices=(
            *_LITSERVE,
            Choice("num_api_servers 2, for two cores", _LITSERVE_SERVERS),
            _LITSERVE_BATCHING,
            _ONE_ROW,
        ),
    ),
    System(
        name="bento",
        settings="one worker, adaptive batching of the tiny model",
        launch=_bento,
        ports=lambda place: [place.port(600)],
        paths=_PLAIN,
        choices=(*_BENTO, _BENTO_BATCHING, _ONE_ROW),
    ),
    System(
        name="bento_single",
        settings="the same without batching, as a coroutine: no thread between",
        launch=_bento,
        ports=lambda place: [place.port(600)],
        paths={"mlp": "/mlp_single"},
        choices=_BENTO,
    ),
    System(
        name="bento_workers",
        settings="two workers, each with HTTP and the models: twice as many models as the others have; no batching",
        launch=_bento_workers,
        ports=lambda place: [place.port(600)],
        paths=_paths("/{}", mlp="/mlp_single"),
        choices=(*_BENTO, Choice("workers 2, for two cores", _BENTO_WORKERS)),
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
