"""``holdfast up``: one node, from nothing to the first answer and back to nothing.

Shows what it waits for. Not here: the deployments; what must be so before Ray starts (``serving.cluster``).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from models.errors import ModelError
from models.golden import read_examples
from models.manifest import ModelVersion
from models.registry import Registry
from models.signature import Signature
from serving.cluster import (
    StartError,
    check_ports,
    check_redaction,
    check_restored,
    check_token,
    lock_state,
    set_ray_environment,
)
from serving.deployments.folders import socket_dir
from serving.ingress.keeper import HaproxyFiles, end_leftover
from serving.model_settings import ModelSettings
from serving.rollout.report import Overview
from serving.rollout.state import Phase
from serving.rollout.versions import UNLOADED, initial_models
from serving.settings import Settings

START_TIMEOUT_S = 180.0
POLL_S = 0.2


class Progress:
    """Lines with the seconds since the command started."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:5.1f} s] {text}", flush=True)


def up(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. Raises ``StartError`` if it can't start."""
    progress = Progress()
    stopped = threading.Event()
    if (warning := check_token(settings)) is not None:
        progress(warning)
    check_redaction(settings)
    with lock_state(settings), _stop_signals(stopped):
        check_restored(settings)
        if end_leftover(HaproxyFiles(settings)):
            progress("ended an HAProxy that an earlier run left behind")
        check_ports(settings)
        wanted = _wanted(settings)
        _empty_run_folder(settings)
        # Imported before the environment is set: Serve's handles take from it how they call, and the one to the control
        # plane is made in this process.
        from serving import app

        set_ray_environment()
        progress("starting Ray")
        app.start_ray()
        with _stop_signals(stopped):  # again: Ray has put a handler of its own in the place of ours
            _serve(settings, wanted, progress, stopped)
        progress("stopped")
    return 0


def _serve(settings: Settings, wanted: list[ModelVersion], progress: Progress, stopped: threading.Event) -> None:
    """From Ray's being there to its being gone."""
    from serving import app

    try:
        progress(f"starting {settings.gateway.replicas} gateways, HAProxy and {len(wanted)} model versions")
        app.deploy(settings)
        if _await_first_answer(settings, wanted, progress, stopped, app.failure):
            _await_others(settings, wanted, progress, stopped)
            progress("ready. Ctrl-C stops everything")
            _until(stopped)
        progress("stopping: requests under way are finished")
    finally:
        app.stop_ray()
        end_leftover(HaproxyFiles(settings))
        _empty_run_folder(settings)


def _wanted(settings: Settings) -> list[ModelVersion]:
    """The versions that shall be served; raises ``StartError`` if the store lacks one, or can't be read."""
    registry = Registry(settings.store_dir)
    try:
        present = registry.versions()
        models = initial_models(settings, registry)
    except OSError as error:
        raise StartError(f"store: {error.filename or settings.store_dir}: {error.strerror}") from None
    if not models:
        raise StartError(f"store: {settings.store_dir} has no models; publish one with `holdfast models publish`")
    for index, model in enumerate(models):
        for version in model.versions:
            if ModelVersion(model.name, version) not in present:
                raise StartError(f"models[{index}].versions: {settings.store_dir} has no {model.name}@{version}")
    _check_chains(models, registry)
    return [ModelVersion(model.name, version) for model in models for version in model.versions]


def _check_chains(models: tuple[ModelSettings, ...], registry: Registry) -> None:
    """Raises ``StartError`` if what a model falls back to, or its shadow, couldn't answer for it: signatures tell."""
    from serving.plans import chain_fault, shadow_fault

    stable = {model.name: model.stable_version for model in models}

    def signature_of(model: str, version: str | None) -> Signature | None:
        name = version or stable.get(model)
        with contextlib.suppress(ModelError, OSError):  # a version that can't be read is told of when it is loaded
            return None if name is None else registry.manifest(model, name).signature
        return None

    for index, model in enumerate(models):
        with contextlib.suppress(ModelError, OSError):
            manifest = registry.manifest(model.name, model.stable_version)
            fault = chain_fault(model, manifest.signature, signature_of) or shadow_fault(model, manifest, signature_of)
            if fault is not None:
                raise StartError(f"models[{index}].{fault}")


@contextlib.contextmanager
def _stop_signals(stopped: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set ``stopped``. A second SIGINT interrupts at once."""

    def stop(number: int, _: Any) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await_first_answer(
    settings: Settings,
    wanted: list[ModelVersion],
    progress: Progress,
    stopped: threading.Event,
    failure: Callable[[], str | None],
) -> bool:
    """Wait for the first model and show a real prediction of it; False if told to stop before."""
    until = time.monotonic() + START_TIMEOUT_S
    while not stopped.wait(POLL_S):
        index = _index(
            settings
        )  # before the rollouts, so that one that has replaced a version is known with its reason
        expected = _expected(settings, wanted)
        for name in wanted if expected is None else expected:
            if (answer := _predict(settings, name)) is not None:
                progress(f"first answer, from {name}: {answer}")
                return True
        if (reason := failure()) is not None:
            raise StartError(f"Ray Serve can't start the gateway: {reason}")
        if expected is not None and nothing_left(index, expected):
            return True
        if time.monotonic() > until:
            raise StartError(f"no model answered within {START_TIMEOUT_S:g} s; Ray's logs say more")
    return False


def _await_others(settings: Settings, wanted: list[ModelVersion], progress: Progress, stopped: threading.Event) -> None:
    """Tell of every version once it is ready, or why it isn't."""
    told: set[ModelVersion] = set()
    until = time.monotonic() + START_TIMEOUT_S
    while not stopped.wait(POLL_S) and time.monotonic() < until:
        index = _index(settings)
        expected = _expected(settings, wanted)
        if expected is None:
            continue
        missing = set(expected) - told
        if not missing:
            break
        for entry in index:
            name = ModelVersion(entry["name"], entry["version"])
            if name in missing and entry["state"] == "READY":
                told.add(name)
                progress(f"{name} is ready")
            elif name in missing and entry["reason"] not in _NOT_YET:
                told.add(name)
                progress(f"{name} is NOT served: {entry['reason']}")
    base = f"http://{settings.http.host}:{settings.http.port}"
    progress(f"serving at {base}; models: {base}/v2/models; metrics: {base}/metrics")


def _expected(settings: Settings, wanted: list[ModelVersion]) -> list[ModelVersion] | None:
    """What is to come up; None while it can't be told: nobody answers for rollouts before a gateway is there."""
    try:
        overview = msgspec.convert(_ask(settings, "GET", "/v2/holdfast/rollouts"), Overview)
    except ValueError:
        return None
    return after_rollouts(settings, wanted, overview)


def after_rollouts(settings: Settings, wanted: list[ModelVersion], overview: Overview) -> list[ModelVersion]:
    """What is wanted, as rollouts have left it: the version that a model has now, not the one that it has replaced.

    One that was rolled back stays in the list, though it doesn't come up: the index says why, and so people are told.
    """
    expected = dict.fromkeys(wanted)
    for one in overview.rollouts:
        stable, other = (one.version, one.prior) if one.phase == Phase.SUCCEEDED.value else (one.prior, one.version)
        model = settings.model(one.model)
        named = None if model is None else model.stable_version
        if one.model not in {name.model for name in wanted} or (one.settled and named not in (None, stable, other)):
            continue  # it isn't served, or by a version that the rollout knew nothing of
        replaced = ModelVersion(one.model, other)
        if str(replaced) not in overview.rolled_back and named in (None, other):
            expected.pop(replaced, None)
        expected[ModelVersion(one.model, stable)] = None
    return list(expected)


_NOT_YET = ("not loaded", "no replica can take work now")


def nothing_left(index: list[Any], wanted: list[ModelVersion]) -> bool:
    """Whether people have unloaded everything already, before it was seen to answer. Raises if all of it has failed."""
    reasons = {
        ModelVersion(entry["name"], entry["version"]): entry["reason"]
        for entry in index
        if entry["state"] != "READY" and entry["reason"] not in _NOT_YET
    }
    if not all(name in reasons for name in wanted):
        return False
    if all(reasons[name] == UNLOADED for name in wanted):
        return True
    raise StartError("; ".join(f"{name}: {reasons[name]}" for name in wanted))


def _until(stopped: threading.Event) -> None:
    while not stopped.wait(0.5):  # a wait without an end would keep Python from running the signals' handlers
        pass


def _predict(settings: Settings, name: ModelVersion) -> str | None:
    """The answer to the version's first golden example, shortened; None while there is none."""
    base = f"/v2/models/{name.model}/versions/{name.version}"
    if _ask(settings, "GET", f"{base}/ready") is None:
        return None  # before the example is read: we are asked several times a second while models start
    manifest = Registry(settings.store_dir).manifest(*name)
    golden = settings.store_dir / name.model / name.version / manifest.golden.path
    example = read_examples(golden.read_bytes(), manifest.signature)[0]
    inputs = [
        {"name": spec.name, "shape": list(array.shape), "datatype": spec.datatype, "data": array.ravel().tolist()}
        for spec, array in zip(manifest.signature.inputs, example.inputs, strict=True)
        if spec.datatype not in ("FP16", "BF16", "BYTES")
    ]
    answer = _ask(settings, "POST", f"{base}/infer", json.dumps({"inputs": inputs}))
    if answer is None:
        return None
    outputs = [f"{output['name']} {_short(output['data'])}" for output in answer["outputs"] if "data" in output]
    return ", ".join(outputs)


def _short(data: list[Any]) -> str:
    shown = ", ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in data[:4])
    return f"[{shown}, ...]" if len(data) > 4 else f"[{shown}]"


def _index(settings: Settings) -> list[Any]:
    return _ask(settings, "POST", "/v2/repository/index", "{}") or []


def _ask(settings: Settings, method: str, path: str, body: str | None = None) -> Any:
    """The JSON answer to a request through HAProxy; None for anything but success."""
    connection = http.client.HTTPConnection(settings.http.host, settings.http.port, timeout=5)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        raw = response.read()
        return json.loads(raw) if response.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _empty_run_folder(settings: Settings) -> None:
    """Remove what an earlier run of this state folder left: tables, metrics, sockets. We hold the lock."""
    run = Path(settings.state_dir) / "run"
    for folder in run.iterdir() if run.is_dir() else ():
        shutil.rmtree(socket_dir(settings, str(folder)), ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
